package virtualtable

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"math"
	"regexp"
	"time"

	"modernc.org/sqlite"
	"modernc.org/sqlite/vtab"

	"github.com/kmodquery/kmodquery/internal/human"
)

// OpenShell is Open for people. Its database has two functions that osquery lacks:
//
//	ago('1h')   the time an hour ago, in seconds since 1970
//	utc(time)   such a time as text, as in 2026-08-01 12:00:00
//
// It returns an error for a comparison of a column of numbers with the text of a time, as
// in time > datetime('now', '-1 hour'). In osquery no row meets it, or each row.
func OpenShell[P Plugin](ctx context.Context, plugins ...P) (*sql.DB, error) {
	c := &connector{driver: new(sqlite.Driver), isStrict: true}
	c.driver.MustRegisterScalarFunction("ago", 1, ago)
	c.driver.MustRegisterDeterministicScalarFunction("utc", 1, utc)
	return attach(ctx, c, plugins)
}

func ago(_ *sqlite.FunctionContext, args []driver.Value) (driver.Value, error) {
	text, ok := args[0].(string)
	if !ok {
		return nil, fmt.Errorf("ago takes a text such as ago('1h')")
	}
	d, err := human.Duration(text)
	if err != nil {
		return nil, fmt.Errorf("ago('%s'): %w", text, err)
	}
	if d < 0 {
		return nil, fmt.Errorf("ago('%s') is in the future; write a time without a sign", text)
	}
	return time.Now().Add(-d).Unix(), nil
}

// utc returns NULL for what is no time.
func utc(_ *sqlite.FunctionContext, args []driver.Value) (driver.Value, error) {
	var seconds int64
	switch v := args[0].(type) {
	case int64:
		seconds = v
	case float64:
		if math.Abs(v) > 1<<53 || math.IsNaN(v) {
			return nil, nil
		}
		seconds = int64(v)
	case string:
		var ok bool
		if seconds, ok = parseInteger(v, 10); !ok {
			return nil, nil
		}
	default:
		return nil, nil
	}
	if t := time.Unix(seconds, 0).UTC(); t.Year() >= 0 && t.Year() <= 9999 {
		return t.Format(time.DateTime), nil
	}
	return nil, nil
}

var (
	isNumber = regexp.MustCompile(`^\s*[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?\s*$`)
	isDate   = regexp.MustCompile(`^\s*[0-9]{4}-[0-9]{2}`)
)

// checkTexts returns an error if a column of numbers is compared with a text that is a
// date or, by its order, with any that is no number.
func (t *table) checkTexts(terms []term, values []vtab.Value) error {
	for i, term := range terms {
		text, isText := values[i].(string)
		column := t.columns[term.Column]
		switch {
		case !isText || column.kind == typeText || column.kind == typeBlob || column.kind == typeUnknown || isNumber.MatchString(text):
		case isDate.MatchString(text) || term.isOrdering():
			return fmt.Errorf("%s holds numbers and '%s' is none; write a time as strftime('%%s', '2026-01-31') or ago('1h')", column.name, text)
		}
	}
	return nil
}

func (t term) isOrdering() bool {
	for _, op := range []vtab.ConstraintOp{vtab.OpLT, vtab.OpLE, vtab.OpGT, vtab.OpGE} {
		if operators[op] == t.Op {
			return true
		}
	}
	return false
}
