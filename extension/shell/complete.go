package shell

import (
	"cmp"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/kmodquery/kmodquery"
)

var keywords = strings.Fields(`ALL AND AS ASC BETWEEN BY CASE CAST COUNT CREATE CROSS DESC DISTINCT DROP ELSE END ESCAPE
	EXCEPT EXISTS FROM GLOB GROUP HAVING IN INNER INTERSECT IS ISNULL JOIN LEFT LIKE LIMIT NATURAL NOT NOTNULL NULL OFFSET ON OR
	ORDER OVER PARTITION RECURSIVE REGEXP SELECT TABLE TEMP THEN UNION USING VALUES VIEW WHEN WHERE WITH
	ago coalesce count datetime group_concat ifnull length lower max min nullif round strftime substr sum upper utc`)

// complete returns the part of a line before its last word, and what that word may become:
// keywords, tables and columns, or the names and words of commands. Each begins with what was
// typed, so that completion never takes letters away. typed is the statement so far.
func (s *session) complete(ctx context.Context, typed, line string) (head string, words []string) {
	begin := 1 + strings.LastIndexFunc(line, func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '_' && r != '.'
	})
	if begin > 0 {
		_, size := utf8.DecodeRuneInString(line[begin-1:])
		begin += size - 1
	}
	head, word := line[:begin], line[begin:]
	before := strings.Fields(head)
	last := ""
	if len(before) > 0 {
		last = strings.ToLower(before[len(before)-1])
	}
	switch {
	case typed == "" && len(before) == 0 && strings.HasPrefix(word, "."):
		for _, c := range commands() {
			words = append(words, c.name)
		}
	case typed == "" && len(before) == 1 && strings.HasPrefix(before[0], "."):
		if slices.Contains([]string{".once", ".output", ".read"}, before[0]) {
			return before[0] + " ", files(strings.TrimLeft(line[len(before[0]):], " "))
		}
		words = s.completeCommand(ctx, before[0])
	case last == "from" || last == "join":
		words = s.names(ctx, tableNames)
	case word == "":
	default:
		if i := strings.LastIndexByte(word, '.'); i >= 0 {
			words = s.columnsIn(ctx, typed+"\n"+line, word[:i])
			head, word = head+word[:i+1], word[i+1:]
			break
		}
		words = append(slices.Clone(keywords), s.names(ctx, tableNames)...)
		if columns := s.columnsIn(ctx, typed+"\n"+line, ""); len(columns) > 0 {
			words = append(words, columns...)
		} else {
			words = append(words, s.names(ctx, columnNames)...)
		}
	}
	completed := words[:0]
	for _, candidate := range words {
		if len(candidate) < len(word) || !strings.EqualFold(candidate[:len(word)], word) || kmodquery.Printable(candidate) != candidate {
			continue
		}
		rest := candidate[len(word):]
		if word != "" && word == strings.ToLower(word) && isKeyword(candidate) {
			rest = strings.ToLower(rest)
		}
		completed = append(completed, word+rest)
	}
	slices.Sort(completed)
	completed = slices.Compact(completed)
	// Where nothing is to be added, a Tab is a blank, as in text that is pasted.
	if len(completed) == 0 && word == "" && !strings.HasSuffix(head, ".") || len(completed) == 1 && completed[0] == word {
		return head, []string{word + " "}
	}
	if len(completed) > maxCandidates {
		return head, nil
	}
	return head, completed
}

// maxCandidates is how many candidates the editor shows without a question that takes the keyboard.
const maxCandidates = 100

// files returns the files whose paths begin with path, folders with a slash at their end.
func files(path string) (found []string) {
	folder, begin := filepath.Split(path)
	entries, err := os.ReadDir(cmp.Or(folder, "."))
	if err != nil {
		return nil
	}
	for _, entry := range entries {
		name := entry.Name()
		if !strings.HasPrefix(name, begin) || kmodquery.Printable(name) != name || strings.ContainsAny(name, ` '"\\`) {
			continue
		}
		if entry.IsDir() {
			name += "/"
		}
		if found = append(found, folder+name); len(found) > maxCandidates {
			return nil
		}
	}
	return found
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
