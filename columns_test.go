package kmodquery

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestColumnsAddsANameOnce(t *testing.T) {
	var c Columns
	c.Add("path", "params")
	c.Add("path", "pat")
	require.Equal(t, "path,params,pat", c.String())
}

func TestColumnsHasWholeNamesOnly(t *testing.T) {
	c := Columns("path,params")
	require.True(t, c.Has("path"))
	require.True(t, c.Has("params"))
	require.False(t, c.Has("param"))
	require.False(t, c.Has("path,params"))
	require.False(t, c.Has(""))
	require.False(t, Columns("").Has(""))
}

func TestColumnsRemoveKeepsTheOrder(t *testing.T) {
	c := Columns("path,params,pid")
	c.Remove("params", "uid")
	require.Equal(t, "path,pid", c.String())
	c.Remove("path", "pid")
	require.Empty(t, c)
	c.Remove("path")
	require.Empty(t, c)
}

func TestColumnsAllStopsWhenAsked(t *testing.T) {
	require.Equal(t, []string{"path", "params"}, slices.Collect(Columns("path,params").All()))
	require.Empty(t, slices.Collect(Columns("").All()))
	for name := range Columns("path,params").All() {
		require.Equal(t, "path", name)
		break
	}
}

func TestCopiesOfColumnsAreIndependent(t *testing.T) {
	var c Columns
	c.Add("path")
	copied := c
	c.Add("params")
	copied.Add("pid")
	require.Equal(t, "path,params", c.String())
	require.Equal(t, "path,pid", copied.String())
}

func TestMissingIsTextInJSON(t *testing.T) {
	text, err := json.Marshal(Event{Missing: "path,params"})
	require.NoError(t, err)
	require.Contains(t, string(text), `"missing":"path,params"`)
	text, err = json.Marshal(Event{})
	require.NoError(t, err)
	require.NotContains(t, string(text), "missing")
	var e Event
	require.NoError(t, json.Unmarshal([]byte(`{"missing":"path,params"}`), &e))
	require.True(t, e.Missing.Has("params"))
}

func TestEmptyColumnsDoNotAllocate(t *testing.T) {
	var e Event
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if e.Missing.Has("sha256") {
			t.Error("an empty set has a column")
		}
		e.Missing.Remove("sha256")
	}))
}
