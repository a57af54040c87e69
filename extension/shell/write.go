package shell

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// A cell is one value as text.
type cell struct {
	text string
	null bool
}

// A rowWriter writes one result into a buffer.
type rowWriter interface {
	row(cells []cell)
	end()
}

// flushSize is how many bytes Write collects before it writes them.
const flushSize = 64 << 10

// write reads all rows, writes them to w in format f and returns their number. The caller
// closes rows. If rows have no columns, Write writes nothing. After an error, w may have
// received the rows before it. A JSON array is then left open, so that a reader of the
// output detects that it is incomplete.
func write(w io.Writer, f Format, rows *sql.Rows) (n int, err error) {
	columns, err := rows.Columns()
	if err != nil {
		return 0, fmt.Errorf("read column names: %w", err)
	}
	var buffer bytes.Buffer
	out, err := newRowWriter(&buffer, f, columns)
	if err != nil {
		return 0, err
	}
	flush := func() error {
		if _, err := buffer.WriteTo(w); err != nil {
			return fmt.Errorf("write rows: %w", err)
		}
		return nil
	}
	values, cells := make([]any, len(columns)), make([]cell, len(columns))
	pointers := make([]any, len(columns))
	for i := range values {
		pointers[i] = &values[i]
	}
	for rows.Next() {
		if err := rows.Scan(pointers...); err != nil {
			return n, errors.Join(fmt.Errorf("read row: %w", err), flush())
		}
		for i, value := range values {
			cells[i] = newCell(value)
		}
		out.row(cells)
		n++
		if buffer.Len() >= flushSize {
			if err := flush(); err != nil {
				return n, err
			}
		}
	}
	if err := rows.Err(); err != nil {
		return n, errors.Join(err, flush())
	}
	out.end()
	return n, flush()
}

func newRowWriter(w *bytes.Buffer, f Format, columns []string) (rowWriter, error) {
	if len(columns) == 0 {
		return noColumns{}, nil
	}
	switch f {
	case Table:
		return newTableWriter(w, columns), nil
	case JSON:
		return newJSONWriter(w, columns), nil
	case CSV:
		return newCSVWriter(w, columns), nil
	case Line:
		return newLineWriter(w, columns), nil
	}
	return nil, fmt.Errorf("unknown format %q; choose one of %s", string(f), formatNames())
}

type noColumns struct{}

func (noColumns) row([]cell) {}
func (noColumns) end()       {}

// newCell returns a value as SQLite prints it: a REAL has at most 15 digits, and always a
// form that no INTEGER has.
func newCell(value any) cell {
	switch v := value.(type) {
	case nil:
		return cell{null: true}
	case int64:
		return cell{text: strconv.FormatInt(v, 10)}
	case float64:
		text := strconv.FormatFloat(v, 'g', 15, 64)
		if !strings.ContainsAny(text, ".eIN") {
			text += ".0"
		}
		return cell{text: text}
	case string:
		return cell{text: v}
	case []byte:
		return cell{text: string(v)}
	default:
		return cell{text: fmt.Sprint(v)}
	}
}
