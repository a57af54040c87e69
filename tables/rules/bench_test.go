package rules

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

func BenchmarkCondition(b *testing.B) {
	c, err := compile(`path matches "^(/usr)?/lib/modules/[^/]+/(extra|updates)/" and outcome in ["loaded", "running"] and uid == 0`, columnsOf(testColumns))
	require.NoError(b, err)
	e := load(func(e *kmodquery.Event) { e.Path, e.UID = "/usr/lib/modules/6.12/extra/a.ko", ptr(int64(0)) })
	b.ReportAllocs()
	for b.Loop() {
		if ok, err := c.evaluate(e); !ok || err != nil {
			b.Fatal(err)
		}
	}
}

// The most that an evaluation may cost.
func BenchmarkCostliestCondition(b *testing.B) {
	c, err := compile(strings.Repeat(`ancestors matches "(x|y|z)*[0-9]{40}$" or `, 50)+"false", columnsOf(testColumns))
	require.NoError(b, err)
	e := load(func(e *kmodquery.Event) { e.Ancestors = strings.Repeat("x", 16<<10) })
	for b.Loop() {
		_, err := c.evaluate(e)
		require.ErrorIs(b, err, errCost)
	}
}
