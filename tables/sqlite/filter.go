package sqlite

import (
	"math"
	"strings"

	"github.com/Masterminds/squirrel"

	"github.com/kmodquery/kmodquery"
)

// maxValues bounds the values of all conditions together, each counted three times because a
// text is compared three times, far below SQLite's limits on variables and on the depth of an
// expression. Conditions beyond it are left out, which [kmodquery.Filter] permits.
const maxValues = 900

// unprivilegedName is the store's name of [kmodquery.UnprivilegedColumn].
const unprivilegedName = "cheap"

// filterSQL returns the SQL of a filter, without that of what is never shown.
func filterSQL(f kmodquery.Filter) squirrel.And {
	all := conditions(f.Conditions)
	if len(f.Reports) > 0 {
		all = append(all, squirrel.Or{squirrel.Expr("reports_load IS NOT 0"), squirrel.NotEq{"event_name": f.Reports}})
	}
	return all
}

// conditions returns the SQL of the conditions that the store can evaluate, and leaves
// out the others.
func conditions(conditions []kmodquery.Condition) squirrel.And {
	var all squirrel.And
	values := 0
	for _, condition := range conditions {
		where, ok := predicate(condition)
		if n := 3 * len(condition.Values); ok && values+n <= maxValues {
			values += n
			all = append(all, where)
		}
	}
	return all
}

func predicate(c kmodquery.Condition) (squirrel.Sqlizer, bool) {
	column, ok := kmodquery.EventColumn(c.Column)
	if c.Column == kmodquery.UnprivilegedColumn {
		column, ok = kmodquery.Column{Name: unprivilegedName, Number: true}, true
	}
	if !ok || len(c.Values) == 0 {
		return nil, false
	}
	for _, value := range c.Values {
		if !comparable(column, value) {
			return nil, false
		}
	}
	if c.Op == kmodquery.Equal {
		var either squirrel.Or
		for _, value := range c.Values {
			either = append(either, equal(column.Name, value))
		}
		return either, true
	}
	operator, ok := inequalities[c.Op]
	return squirrel.Expr(column.Name+operator+"?", c.Values[0]), ok && len(c.Values) == 1
}

var inequalities = map[kmodquery.Op]string{
	kmodquery.Less: " < ", kmodquery.LessOrEqual: " <= ", kmodquery.Greater: " > ", kmodquery.GreaterOrEqual: " >= ",
}

// equal ignores the ASCII case of text, by the columns' collation, and its trailing
// blanks: a query may use COLLATE NOCASE or COLLATE RTRIM, which osquery's constraints
// do not mention.
func equal(column string, value any) squirrel.Sqlizer {
	text, ok := value.(string)
	if !ok {
		return squirrel.Eq{column: value}
	}
	text = strings.TrimRight(text, " ")
	return squirrel.Or{
		squirrel.Eq{column: text},
		squirrel.And{squirrel.GtOrEq{column: text + " "}, squirrel.Lt{column: text + "!"}},
	}
}

func comparable(column kmodquery.Column, value any) bool {
	switch value := value.(type) {
	case int64:
		return column.Number
	case float64:
		return column.Number && !math.IsNaN(value) // SQLite treats it as NULL
	case string:
		return !column.Number
	}
	return false
}
