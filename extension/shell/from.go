package shell

import (
	"context"
	"regexp"
	"strings"
)

var sqlToken = regexp.MustCompile(`'[^']*'?|--[^\n]*|"[^"]*"?|[\pL\pN_]+|[^\s]`)

// tablesOf returns the tables after FROM and JOIN in a statement, which need not be whole, by
// the names that stand for them there: an alias, and the table's own.
func tablesOf(statement string) map[string]string {
	const (
		elsewhere = iota
		expected  // a table
		named     // after a table: its alias, or a comma and the next one
	)
	tables, at, last := map[string]string{}, elsewhere, ""
	for _, token := range sqlToken.FindAllString(statement, -1) {
		word := strings.ToLower(strings.Trim(token, `"`))
		switch isName := word != "" && sqlToken.FindString(word) == word && !strings.ContainsAny(word, `'(),.;=<>*`); {
		case word == "from" || word == "join":
			at = expected
		case at == expected && isName:
			tables[word], at, last = word, named, word
		case at == named && word == ",":
			at = expected
		case at == named && word == "as":
		case at == named && isName && !isKeyword(word):
			tables[word] = last
		default:
			at = elsewhere
		}
	}
	return tables
}

func isKeyword(word string) bool {
	for _, k := range keywords {
		if strings.EqualFold(k, word) {
			return true
		}
	}
	return false
}

// columnsIn returns the columns of the tables of a statement, or of the one that a name stands for there.
// It returns nil if the statement names none.
func (s *session) columnsIn(ctx context.Context, statement, name string) (columns []string) {
	tables := tablesOf(statement)
	if name != "" {
		table, ok := tables[strings.ToLower(name)]
		if !ok {
			table = name // FROM may be typed later
		}
		tables = map[string]string{name: table}
	}
	for _, table := range tables {
		columns = append(columns, s.names(ctx, columnsOf, table)...)
	}
	return columns
}
