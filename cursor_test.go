package kmodquery

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCursorQueryKeepsItsConditions(t *testing.T) {
	events := []Condition{
		{Column: "event_name", Op: Equal, Values: []any{"module_load", "a\"b\\"}},
		{Column: "time", Op: Greater, Values: []any{int64(1) << 62}},
		{Column: "eid", Op: Less, Values: []any{1.5}},
	}
	q := NewCursorQuery("kernel_module_events", events[:1], events)
	conditions, err := q.Conditions()
	require.NoError(t, err)
	require.Equal(t, events, conditions)
	require.NotEqual(t, q.ID, NewCursorQuery("kernel_module_findings", events[:1], events).ID)
	require.NotEqual(t, q.ID, NewCursorQuery("kernel_module_events", events[:2], events).ID)
	require.Equal(t, q.ID, NewCursorQuery("kernel_module_events", events[:1], nil).ID)
	none, err := NewCursorQuery("kernel_module_events", nil, nil).Conditions()
	require.NoError(t, err)
	require.Empty(t, none)
	_, err = CursorQuery{Events: "["}.Conditions()
	require.ErrorContains(t, err, "parse the conditions of a cursor")
}

func TestTheOrderOfConditionsIsNotPartOfAQuery(t *testing.T) {
	name := Condition{Column: "name", Op: Equal, Values: []any{"a"}}
	uid := Condition{Column: "uid", Op: Greater, Values: []any{int64(1)}}
	one := NewCursorQuery("t", []Condition{name, uid}, nil)
	other := NewCursorQuery("t", []Condition{uid, name}, nil)
	require.Equal(t, one.ID, other.ID)
}

func TestTheTextsOfAQueryAreShort(t *testing.T) {
	name := Condition{Column: "event_name", Op: Equal, Values: []any{"module_load"}}
	hashes := func(n int) Condition {
		c := Condition{Column: "sha256", Op: Equal}
		for i := range n {
			c.Values = append(c.Values, strings.Repeat(string(rune('a'+i%6)), 64))
		}
		return c
	}
	many := []Condition{hashes(1000), name}
	q := NewCursorQuery("t", many, many)
	require.Less(t, len(q.ID)+len(q.Events), 2*longText)
	conditions, err := q.Conditions()
	require.NoError(t, err)
	require.Equal(t, []Condition{name}, conditions)
	require.Len(t, many, 2)
	require.Equal(t, q.ID, NewCursorQuery("t", []Condition{name, hashes(1000)}, nil).ID)
	require.NotEqual(t, q.ID, NewCursorQuery("t", []Condition{name, hashes(1001)}, nil).ID)
	require.NotEqual(t, q.ID, NewCursorQuery("other", many, nil).ID)
	none, err := NewCursorQuery("t", nil, many[:1]).Conditions()
	require.NoError(t, err)
	require.Empty(t, none)
}
