package shell

import (
	"context"
	"slices"
	"strings"
	"unicode"

	"github.com/kmodquery/kmodquery"
)

var keywords = strings.Fields(`ALL AND AS ASC BETWEEN BY CASE CAST COUNT CREATE CROSS DESC DISTINCT DROP ELSE END ESCAPE
	EXCEPT EXISTS FROM GLOB GROUP HAVING IN INNER INTERSECT IS ISNULL JOIN LEFT LIKE LIMIT NATURAL NOT NOTNULL NULL OFFSET ON OR
	ORDER OVER PARTITION RECURSIVE REGEXP SELECT TABLE TEMP THEN UNION USING VALUES VIEW WHEN WHERE WITH
	ago coalesce count datetime group_concat ifnull length lower max min nullif round strftime substr sum upper utc`)

// complete returns the part of a line before its last word, and what that word may become:
// keywords, tables and columns, or the names and words of commands.
func (s *session) complete(ctx context.Context, line string) (head string, words []string) {
	begin := 1 + strings.LastIndexFunc(line, func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '_' && r != '.'
	})
	head, word := line[:begin], line[begin:]
	before := strings.Fields(head)
	switch {
	case len(before) == 0 && strings.HasPrefix(word, "."):
		for _, c := range commands() {
			words = append(words, c.name)
		}
	case len(before) == 1 && strings.HasPrefix(before[0], "."):
		words = s.completeCommand(ctx, before[0])
	case word == "":
	default:
		if i := strings.LastIndexByte(word, '.'); i >= 0 {
			head, word = head+word[:i+1], word[i+1:]
		} else {
			words = append(words, keywords...)
			words = append(words, s.names(ctx, tableNames)...)
		}
		words = append(words, s.names(ctx, columnNames)...)
	}
	words = slices.DeleteFunc(words, func(candidate string) bool {
		return len(candidate) < len(word) || !strings.EqualFold(candidate[:len(word)], word) ||
			kmodquery.Printable(candidate) != candidate
	})
	slices.Sort(words)
	return head, slices.Compact(words)
}

// completeCommand returns what may follow a command.
func (s *session) completeCommand(ctx context.Context, name string) []string {
	switch name {
	case ".all", ".schema":
		return s.names(ctx, tableNames)
	case ".headers", ".timer":
		return []string{"on", "off"}
	case ".mode":
		return strings.Split(formatNames, ", ")
	}
	return nil
}
