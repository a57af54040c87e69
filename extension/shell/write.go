package shell

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/kmodquery/kmodquery"
)

// A cell is one value as text.
type cell struct {
	text string
	null bool
}

// show returns the cell as a terminal may show it.
func (c cell) show(s *style) string {
	if c.null {
		return kmodquery.Printable(s.nullText())
	}
	return kmodquery.Printable(c.text)
}

// textCells returns texts as cells.
func textCells(texts []string) []cell {
	cells := make([]cell, len(texts))
	for i, text := range texts {
		cells[i].text = text
	}
	return cells
}

// A rowWriter writes the rows of one result into a buffer.
type rowWriter struct {
	row func(cells []cell)
	end func() // called after the last row
}

// flushSize is how many bytes write collects before it writes them.
const flushSize = 64 << 10

// write reads all rows and writes them to w. It returns their number. The caller closes
// rows. If rows have no columns, write writes nothing. After an error, w may have
// received the rows before it. Once ctx ends, write writes no more.
func write(ctx context.Context, w io.Writer, s *style, rows *sql.Rows) (count int, err error) {
	columns, err := rows.Columns()
	if err != nil {
		return 0, fmt.Errorf("read column names: %w", err)
	}
	var buffer bytes.Buffer
	out, err := newRowWriter(&buffer, s, columns)
	if err != nil {
		return 0, err
	}
	flush := func() error {
		for buffer.Len() > 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
			if _, err := w.Write(buffer.Next(flushSize)); err != nil {
				return fmt.Errorf("write rows: %w", err)
			}
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
			return count, errors.Join(fmt.Errorf("read row: %w", err), flush())
		}
		for i, value := range values {
			cells[i] = newCell(value)
		}
		out.row(cells)
		count++
		if buffer.Len() >= flushSize {
			if err := flush(); err != nil {
				return count, err
			}
		}
	}
	if err := rows.Err(); err != nil {
		return count, errors.Join(err, flush())
	}
	out.end()
	return count, flush()
}

func newRowWriter(w *bytes.Buffer, s *style, columns []string) (rowWriter, error) {
	if len(columns) == 0 {
		return rowWriter{row: func([]cell) {}, end: func() {}}, nil
	}
	if formats[s.format] == nil {
		return rowWriter{}, fmt.Errorf("unknown format %q; choose one of %s", string(s.format), formatNames)
	}
	return formats[s.format](w, s, columns), nil
}

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
