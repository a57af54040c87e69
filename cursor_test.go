package kmodquery

import (
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
