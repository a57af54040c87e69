package shell

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/kmodquery/kmodquery/internal/human"
)

var noSuch = regexp.MustCompile(`^no such (table|column|function): (?:(.*)\.)?([^.]*)$`)

// explain returns the error of a statement as SQLite words it, without what says that it is one of SQL,
// and with the name that a mistyped one is most like.
func (s *session) explain(ctx context.Context, statement string, err error) error {
	text, isSQL := strings.CutPrefix(err.Error(), "SQL logic error: ")
	text = strings.TrimPrefix(text, "error generating table: ")
	if strings.HasPrefix(text, "reply would ") {
		text = strings.TrimSuffix(text, " (1)")
		return fmt.Errorf("%s; or start the shell with a larger --reply-limit", text)
	}
	if !isSQL {
		return err
	}
	text = strings.TrimSuffix(text, " (1)")
	match := noSuch.FindStringSubmatch(text)
	if match == nil {
		return errors.New(text)
	}
	kind, typed := match[1], strings.ToLower(match[3])
	var names []string
	switch kind {
	case "table":
		names = s.names(ctx, tableNames)
	case "function":
		names = s.names(ctx, functionNames)
	default:
		if typed == "utc" {
			return fmt.Errorf("%s; write utc(time)", text)
		}
		if names = s.columnsIn(ctx, statement, match[2]); len(names) == 0 {
			names = s.names(ctx, columnNames)
		}
	}
	nearest := human.Nearest(typed, names)
	switch {
	case nearest != "":
		return fmt.Errorf("%s; did you mean %s?", text, nearest)
	case kind == "table":
		return fmt.Errorf("%s; .tables lists them", text)
	case kind == "column":
		return fmt.Errorf("%s; .schema lists them", text)
	}
	return errors.New(text)
}
