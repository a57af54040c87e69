package tables

import (
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

// yamlBlocks returns the blocks of YAML of docs/rules.md.
func yamlBlocks(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("../docs/rules.md")
	require.NoError(t, err)
	var blocks []string
	for _, match := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		blocks = append(blocks, match[1])
	}
	return blocks
}

// The rules of the documentation are valid, and each accepts one load here.
func TestTheExamplesOfRulesWork(t *testing.T) {
	c, _ := withRules(t, testConfig(t), map[string]string{"a.yaml": yamlBlocks(t)[0]})
	require.Empty(t, c.Rules().Status.Reason)
	with := func(id string, change func(*kmodquery.Event)) {
		events := loadOf(id, "good", 0)
		for i := range events {
			events[i].AUID, events[i].Path = new(int64(4294967295)), "/usr/lib/modules/6.12/kernel/good.ko"
			change(&events[i])
		}
		store(t, c, events...)
	}
	with("1", func(*kmodquery.Event) {})
	with("2", func(e *kmodquery.Event) { e.Path = "/usr/lib/modules/6.12/extra/good.ko" })
	with("3", func(e *kmodquery.Event) { e.AUID = new(int64(1000)) })
	with("4", func(e *kmodquery.Event) { e.Name = "nlmon" })
	found := column(rowsOf(t, c, loadsTable, "{}"), "findings")
	slices.Reverse(found)
	require.Equal(t, []string{"TRC-1017", "ACME-1,TRC-1017", "ACME-2,TRC-1017", "ACME-3,TRC-1017"}, found)
}
