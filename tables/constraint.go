package tables

import (
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/osquery/osquery-go/plugin/table"

	"github.com/kmodquery/kmodquery"
)

// A query is the context of one generate request: the constraints of the WHERE clause,
// in which a column may occur twice, and the columns that the query uses.
type query struct {
	Constraints []struct {
		Name string
		List constraintList
	}
	ColsUsed []string // nil if osquery did not send them: all columns are used
}

// A constraintList is the constraints on one column.
type constraintList []table.Constraint

// unreadable is the operator of a constraint that is not in osquery's format.
const unreadable table.Operator = -1

// parseQuery parses the context of a generate request. It fails only if the context is no
// JSON object of osquery's form. Constraints that it cannot parse are unreadable.
func parseQuery(context string) (q query, err error) {
	if context != "" {
		err = json.Unmarshal([]byte(context), &q)
	}
	return q, err
}

// UnmarshalJSON parses a list. osquery sends an empty one as a string.
func (l *constraintList) UnmarshalJSON(text []byte) error {
	var items []json.RawMessage
	_ = json.Unmarshal(text, &items)
	for _, item := range items {
		*l = append(*l, parseConstraint(item))
	}
	return nil
}

// parseConstraint parses one constraint. Its operator is a number, or a string before
// osquery 3.
func parseConstraint(item json.RawMessage) table.Constraint {
	var parsed struct {
		Op   json.Number
		Expr *string
	}
	if err := json.Unmarshal(item, &parsed); err == nil && parsed.Expr != nil {
		if op, err := strconv.Atoi(parsed.Op.String()); err == nil {
			return table.Constraint{Operator: table.Operator(op), Expression: *parsed.Expr}
		}
	}
	return table.Constraint{Operator: unreadable}
}

// uses reports whether the query uses a column.
func (q query) uses(column string) bool {
	return q.ColsUsed == nil || slices.Contains(q.ColsUsed, column)
}

// usesNothing reports whether only the number of rows matters, as for count(*).
func (q query) usesNothing() bool { return q.ColsUsed != nil && len(q.ColsUsed) == 0 }

// conditions returns the conditions that can be evaluated before osquery does.
func conditions[T any](q query, columns []columnOf[T]) []kmodquery.Condition {
	var conditions []kmodquery.Condition
	for _, constraints := range q.Constraints {
		for _, column := range columns {
			if column.Name == constraints.Name && column.event.Name != "" {
				conditions = append(conditions, columnConditions(column.event, constraints.List)...)
			}
		}
	}
	return conditions
}

// ownConditions returns the constraints on columns that no event has, by which the table itself
// leaves out rows. They identify the query of a cursor, as those on columns of events do:
// otherwise a call with other constraints would pass over the rows that this one leaves out.
func (q query) ownConditions(columns ...kmodquery.Column) []kmodquery.Condition {
	var conditions []kmodquery.Condition
	for _, constraints := range q.Constraints {
		for _, column := range columns {
			if column.Name == constraints.Name {
				conditions = append(conditions, columnConditions(column, constraints.List)...)
			}
		}
	}
	return conditions
}

// admits reports whether the constraints on a column of text admit a value. A query may
// compare text without regard to case or to blanks at its end. osquery sends the values of
// an IN as several equalities.
func (q query) admits(column, value string) bool {
	isConstrained := false
	for _, constraints := range q.Constraints {
		for _, constraint := range constraints.List {
			switch {
			case constraints.Name != column:
			case constraint.Operator == unreadable:
				return true
			case constraint.Operator == table.OperatorEquals:
				if strings.EqualFold(strings.TrimRight(constraint.Expression, " "), value) {
					return true
				}
				isConstrained = true
			}
		}
	}
	return !isConstrained
}

// admitsNumber reports whether the constraints on a column of numbers admit a value. It
// evaluates inequalities too.
func (q query) admitsNumber(column string, value int64) bool {
	for _, constraints := range q.Constraints {
		if constraints.Name != column {
			continue
		}
		for _, condition := range columnConditions(kmodquery.Column{Name: column, Number: true}, constraints.List) {
			if !slices.ContainsFunc(condition.Values, func(bound any) bool { return holds(condition.Op, float64(value), bound) }) {
				return false
			}
		}
	}
	return true
}

// holds compares a number with a bound of a condition.
func holds(op kmodquery.Op, value float64, bound any) bool {
	limit, isFloat := bound.(float64)
	if integer, ok := bound.(int64); ok {
		limit = float64(integer)
	} else if !isFloat {
		return true
	}
	switch op {
	case kmodquery.Equal:
		return value == limit
	case kmodquery.Less:
		return value < limit
	case kmodquery.LessOrEqual:
		return value <= limit
	case kmodquery.Greater:
		return value > limit
	case kmodquery.GreaterOrEqual:
		return value >= limit
	}
	return true
}

// bounds are the inequalities among osquery's operators.
var bounds = map[table.Operator]kmodquery.Op{
	table.OperatorGreaterThan:         kmodquery.Greater,
	table.OperatorGreaterThanOrEquals: kmodquery.GreaterOrEqual,
	table.OperatorLessThan:            kmodquery.Less,
	table.OperatorLessThanOrEquals:    kmodquery.LessOrEqual,
}

// columnConditions returns the conditions for the constraints on one column. Several
// constraints of equality are alternatives, because osquery sends IN that way: if one of
// them cannot be evaluated, all of them are left out.
func columnConditions(column kmodquery.Column, list constraintList) []kmodquery.Condition {
	var conditions []kmodquery.Condition
	var equal []any
	allEqual := true
	for _, constraint := range list {
		switch op := constraint.Operator; op {
		case table.OperatorEquals:
			value, ok := equalValue(column, constraint.Expression)
			equal, allEqual = append(equal, value), allEqual && ok
		case unreadable:
			allEqual = false
		default:
			if value, ok := boundValue(column, bounds[op], constraint.Expression); ok {
				conditions = append(conditions, kmodquery.Condition{Column: column.Name, Op: bounds[op], Values: []any{value}})
			}
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
		// osquery shows missing text as "", and sends "" among the values of an IN. Blanks
		// equal it too if the query uses COLLATE RTRIM.
		isEmpty := strings.TrimRight(expression, " ") == ""
		return expression, !isEmpty && plain(expression)
	}
	value, ok := parseNumber(expression)
	if float, isFloat := value.(float64); isFloat && math.Abs(float) >= exactIntegers {
		return nil, false
	}
	return value, ok
}

// boundValue returns the value of an inequality; false for another operator, and for text,
// whose order depends on the query's collation.
func boundValue(column kmodquery.Column, op kmodquery.Op, expression string) (any, bool) {
	value, ok := parseNumber(expression)
	if !ok || !column.Number || op == 0 {
		return nil, false
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
	float, isFloat := value.(float64)
	return value, !isFloat || !math.IsInf(float, 0)
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
	return !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' || r == '\\' })
}
