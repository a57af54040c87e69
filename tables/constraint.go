package tables

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/osquery/osquery-go/plugin/table"

	"github.com/kmodquery/kmodquery"
)

// A query is the request of one call: the constraints of the WHERE clause and the
// columns that the query uses.
type query struct {
	constraints []columnConstraints
	used        []string
	everything  bool // osquery did not send the used columns
}

type columnConstraints struct {
	name string
	list []table.Constraint
}

// unreadable is the operator of a constraint that is not in osquery's format.
const unreadable table.Operator = -1

// parseQuery parses the context of a generate request. It skips constraints that it
// cannot parse, and fails only if the context is no JSON object.
func parseQuery(context string) (query, error) {
	if context == "" {
		return query{everything: true}, nil
	}
	var parsed struct {
		Constraints []struct {
			Name string          `json:"name"`
			List json.RawMessage `json:"list"`
		} `json:"constraints"`
		ColsUsed *[]string `json:"colsUsed"`
	}
	if err := json.Unmarshal([]byte(context), &parsed); err != nil {
		return query{}, err
	}
	q := query{everything: parsed.ColsUsed == nil}
	if !q.everything {
		q.used = *parsed.ColsUsed
	}
	for _, column := range parsed.Constraints {
		// osquery may send a column twice, and sends an empty list as a string.
		var list []json.RawMessage
		if json.Unmarshal(column.List, &list) != nil {
			continue
		}
		constraints := columnConstraints{name: column.Name}
		for _, item := range list {
			constraints.list = append(constraints.list, parseConstraint(item))
		}
		q.constraints = append(q.constraints, constraints)
	}
	return q, nil
}

// parseConstraint parses one constraint. Its operator is a number, or a string before
// osquery 3.
func parseConstraint(item json.RawMessage) table.Constraint {
	var parsed struct {
		Op   any     `json:"op"`
		Expr *string `json:"expr"`
	}
	if json.Unmarshal(item, &parsed) != nil || parsed.Expr == nil {
		return table.Constraint{Operator: unreadable}
	}
	op, err := strconv.Atoi(fmt.Sprint(parsed.Op))
	if err != nil {
		return table.Constraint{Operator: unreadable}
	}
	return table.Constraint{Operator: table.Operator(op), Expression: *parsed.Expr}
}

// uses reports whether the query uses a column.
func (q query) uses(column string) bool {
	return q.everything || slices.Contains(q.used, column)
}

// usesNothing reports whether only the number of rows matters, as for count(*).
func (q query) usesNothing() bool { return !q.everything && len(q.used) == 0 }

// conditions returns the conditions that the store can evaluate. eventColumn returns the
// event's column for one of the table's, and false if there is none.
func (q query) conditions(eventColumn func(string) (kmodquery.Column, bool)) []kmodquery.Condition {
	var conditions []kmodquery.Condition
	for _, constraints := range q.constraints {
		column, ok := eventColumn(constraints.name)
		if ok {
			conditions = append(conditions, columnConditions(column, constraints.list)...)
		}
	}
	return conditions
}

// columnConditions returns the conditions for the constraints on one column. Several
// constraints of equality are alternatives, because osquery sends IN that way: if one of
// them cannot be evaluated, all of them are left out.
func columnConditions(column kmodquery.Column, list []table.Constraint) []kmodquery.Condition {
	var conditions []kmodquery.Condition
	var equal []any
	allEqual := true
	for _, constraint := range list {
		expression := constraint.Expression
		switch constraint.Operator {
		case table.OperatorEquals:
			value, ok := equalValue(column, expression)
			equal, allEqual = append(equal, value), allEqual && ok
		case unreadable:
			allEqual = false
		case table.OperatorGreaterThan:
			conditions = appendBound(conditions, column, kmodquery.Greater, expression)
		case table.OperatorGreaterThanOrEquals:
			conditions = appendBound(conditions, column, kmodquery.GreaterOrEqual, expression)
		case table.OperatorLessThan:
			conditions = appendBound(conditions, column, kmodquery.Less, expression)
		case table.OperatorLessThanOrEquals:
			conditions = appendBound(conditions, column, kmodquery.LessOrEqual, expression)
		}
	}
	if len(equal) > 0 && allEqual {
		conditions = append(conditions, kmodquery.Condition{Column: column.Name, Op: kmodquery.Equal, Values: equal})
	}
	return conditions
}

// exactIntegers bounds the whole numbers that 15 digits represent exactly, as many as
// SQLite prints of a float.
const exactIntegers = 1e15

func equalValue(column kmodquery.Column, expression string) (any, bool) {
	if !column.Number {
		return expression, plain(expression)
	}
	value, ok := parseNumber(expression)
	if float, isFloat := value.(float64); isFloat && math.Abs(float) >= exactIntegers {
		return nil, false
	}
	return value, ok
}

// appendBound appends an inequality. It leaves out text, whose order depends on the
// query's collation.
func appendBound(conditions []kmodquery.Condition, column kmodquery.Column, op kmodquery.Op, expression string) []kmodquery.Condition {
	value, ok := parseNumber(expression)
	if !ok || !column.Number {
		return conditions
	}
	if float, isFloat := value.(float64); isFloat {
		// osquery rounds the value to 15 digits, so the bound moves outwards by that
		// much.
		slack := math.Abs(float) * 1e-14
		if op == kmodquery.Greater || op == kmodquery.GreaterOrEqual {
			value = float - slack
		} else {
			value = float + slack
		}
	}
	return append(conditions, kmodquery.Condition{Column: column.Name, Op: op, Values: []any{value}})
}

// parseNumber parses a number as SQLite writes it: an int64, otherwise a finite float64.
// It rejects Go's other notations, which SQLite treats as text.
func parseNumber(expression string) (any, bool) {
	if integer, err := strconv.ParseInt(expression, 10, 64); err == nil {
		return integer, true
	}
	if strings.Trim(expression, "+-.0123456789eE") != "" {
		return nil, false
	}
	float, err := strconv.ParseFloat(expression, 64)
	return float, err == nil
}

// plain reports whether escaping leaves a text unchanged and no other bytes escape to it
// (see [kmodquery.Escape]), so that the store can compare it.
func plain(text string) bool {
	for i := range len(text) {
		if text[i] < ' ' || text[i] > '~' || text[i] == '\\' {
			return false
		}
	}
	return true
}
