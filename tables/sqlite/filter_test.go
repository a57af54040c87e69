package sqlite

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

func TestConditionsSelectEvents(t *testing.T) {
	s := openStore(t, Options{})
	require.NoError(t, appendEvents(context.Background(), s, []kmodquery.Event{
		{Time: 10, Name: "dummy", Pid: ptr(int64(1))},
		{Time: 20, Name: "DUMMY", Result: ptr(int64(-8))},
		{Time: 30, Name: "ip_tables", Params: ptr("")},
		{Time: 40},
	}))
	many := make([]any, maxValues+1)
	for i := range many {
		many[i] = int64(i + 1000)
	}
	is := func(column string, op kmodquery.Op, values ...any) []kmodquery.Condition {
		return []kmodquery.Condition{{Column: column, Op: op, Values: values}}
	}
	for name, test := range map[string]struct {
		conditions []kmodquery.Condition
		want       []int64
	}{
		"none":                  {nil, []int64{4, 3, 2, 1}},
		"text without case":     {is("name", kmodquery.Equal, "Dummy"), []int64{2, 1}},
		"alternatives":          {is("name", kmodquery.Equal, "dummy", "IP_TABLES", "x"), []int64{3, 2, 1}},
		"an empty text":         {is("params", kmodquery.Equal, ""), []int64{3}},
		"unknown never matches": {is("pid", kmodquery.GreaterOrEqual, int64(-1)), []int64{1}},
		"negative":              {is("result", kmodquery.Less, int64(0)), []int64{2}},
		"equal":                 {is("time", kmodquery.Equal, int64(20)), []int64{2}},
		"less":                  {is("time", kmodquery.Less, int64(20)), []int64{1}},
		"less or equal":         {is("time", kmodquery.LessOrEqual, int64(20)), []int64{2, 1}},
		"greater":               {is("time", kmodquery.Greater, int64(20)), []int64{4, 3}},
		"greater or equal":      {is("time", kmodquery.GreaterOrEqual, int64(20)), []int64{4, 3, 2}},
		"float":                 {is("time", kmodquery.Greater, 20.5), []int64{4, 3}},
		"float equal":           {is("time", kmodquery.Equal, 20.0), []int64{2}},
		"float beyond int64":    {is("time", kmodquery.Less, 1.8e19), []int64{4, 3, 2, 1}},
		"by eid":                {is("eid", kmodquery.LessOrEqual, int64(2)), []int64{2, 1}},
		"all must hold": {append(is("time", kmodquery.Greater, int64(10)), is("name", kmodquery.Equal, "dummy")...),
			[]int64{2}},
		"a value is data":              {is("name", kmodquery.Equal, "x' OR 1=1 --"), []int64{}},
		"unknown column left out":      {is("rowid; DROP TABLE events", kmodquery.Equal, "x"), []int64{4, 3, 2, 1}},
		"text for a number":            {is("pid", kmodquery.Equal, "1"), []int64{4, 3, 2, 1}},
		"number for a text":            {is("name", kmodquery.Equal, int64(1)), []int64{4, 3, 2, 1}},
		"one alternative unusable":     {is("pid", kmodquery.Equal, int64(1), "x"), []int64{4, 3, 2, 1}},
		"not a number":                 {is("pid", kmodquery.Equal, nan()), []int64{4, 3, 2, 1}},
		"unknown operator":             {is("pid", kmodquery.Op(99), int64(1)), []int64{4, 3, 2, 1}},
		"no value":                     {is("pid", kmodquery.Equal), []int64{4, 3, 2, 1}},
		"two values of an inequality":  {is("time", kmodquery.Less, int64(1), int64(2)), []int64{4, 3, 2, 1}},
		"more values than fit":         {is("time", kmodquery.Equal, many...), []int64{4, 3, 2, 1}},
		"other conditions still apply": {append(is("time", kmodquery.Equal, many...), is("name", kmodquery.Equal, "dummy")...), []int64{2, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			f := kmodquery.Filter{Conditions: test.conditions}
			require.Equal(t, test.want, eids(read(t, s, f)))
			n, err := s.Count(context.Background(), f)
			require.NoError(t, err)
			require.EqualValues(t, len(test.want), n)
		})
	}
}

func TestOtherEventsOfLoadsAreLeftOut(t *testing.T) {
	s := openStore(t, Options{})
	require.NoError(t, appendEvents(t.Context(), s, []kmodquery.Event{
		{EventName: "init_module", ReportsLoad: new(int64(0))}, {EventName: "init_module"}, {EventName: "init_module", ReportsLoad: new(int64(1))},
		{EventName: "module_load", ReportsLoad: new(int64(0))}, {EventName: "module_free"},
	}))
	for _, conditions := range [][]kmodquery.Condition{nil, {{Column: "eid", Op: kmodquery.Greater, Values: []any{int64(0)}}}} {
		f := kmodquery.Filter{Conditions: conditions, Reports: []string{"init_module", "finit_module"}}
		require.Equal(t, []int64{5, 4, 3, 2}, eids(read(t, s, f)))
		n, err := s.Count(t.Context(), f)
		require.NoError(t, err)
		require.EqualValues(t, 4, n)
		var between []int64
		require.NoError(t, s.EventsBetween(t.Context(), 0, 4, f, func(e *kmodquery.Event) error { between = append(between, e.EID); return nil }))
		require.Equal(t, []int64{2, 3, 4}, between)
	}
}

func TestTextIsEqualUnderEveryCollation(t *testing.T) {
	s := openStore(t, Options{})
	names := []string{"dummy", "Dummy", "dummy ", "dummy  ", "dummy!", "dummy x", "dumm"}
	events := make([]kmodquery.Event, len(names))
	for i := range events {
		events[i].Name = names[i]
	}
	require.NoError(t, appendEvents(context.Background(), s, events))
	for _, value := range []string{"dummy", "DUMMY", "dummy   "} {
		got := eids(read(t, s, kmodquery.Filter{Conditions: []kmodquery.Condition{
			{Column: "name", Op: kmodquery.Equal, Values: []any{value}},
		}}))
		require.Subset(t, got, []int64{4, 3, 2, 1}, value)
		require.NotContains(t, got, int64(5), value)
		require.NotContains(t, got, int64(7), value)
	}
}
