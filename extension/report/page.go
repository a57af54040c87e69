package report

import (
	"bytes"
	"context"
	"database/sql"
	_ "embed" // the template and its style
	"fmt"
	"html/template"
	"io"
	"time"

	"github.com/kmodquery/kmodquery"
)

//go:embed page.html.tmpl
var pageText string

var pageTemplate = template.Must(template.New("page").Parse(pageText))

// A page is what the template shows.
type page struct {
	Options
	From, To string
	Figures  []figure
	Sections []section
}

// A figure is a number at the head of the page. Its level is that of a severity.
type figure struct {
	Name  string
	Count int64
	Level string
}

// A section is a part of the page. Summary, About, Note and Failed are sentences.
type section struct {
	ID, Title, About, Summary, Note, Failed string
	Chart                                   *chart
	Tables                                  []table
}

// A table is one of HTML. Its cells are safe text of bounded length.
type table struct {
	ID, Title, Badge, Level, About, Note string
	Columns                              []string
	Rows                                 [][]string
	More                                 int64 // rows that are left out
}

func (t *table) add(cells ...string) {
	for i, cell := range cells {
		cells[i] = cut(kmodquery.Printable(cell))
	}
	t.Rows = append(t.Rows, cells)
}

// A chart is a time line of bars.
type chart struct {
	Bars           []bar
	Total          int64
	Width, Height  int
	First, Last    string
	Longest, Label string
}

type bar struct {
	X, Y, Width, Height int
	Level, Text         string
}

const (
	barWidth    = 12 // with its gap
	chartHeight = 120
)

// newChart returns the chart of rows with bar, attempts and severity.
func newChart(since time.Time, each time.Duration, rows []row) *chart {
	c := &chart{Width: barCount * barWidth, Height: chartHeight, First: utc(since.Unix()), Last: utc(since.Add(each * barCount).Unix())}
	most := int64(0)
	for _, r := range rows {
		c.Total += r.int("attempts")
		most = max(most, r.int("attempts"))
	}
	for _, r := range rows {
		n, attempts := r.int("bar"), r.int("attempts")
		if n < 0 || n >= barCount || attempts <= 0 {
			continue // of a clock that was ahead
		}
		height := max(int(float64(attempts)/float64(most)*(chartHeight-4)), 3)
		severity := r.int("severity")
		c.Bars = append(c.Bars, bar{
			X: int(n)*barWidth + 1, Y: chartHeight - height, Width: barWidth - 2, Height: height, Level: severityLevel(severity),
			Text: fmt.Sprintf("%s: %d attempts, highest severity %s", utc(since.Add(time.Duration(n)*each).Unix()), attempts, severityName(severity)),
		})
	}
	c.Longest = fmt.Sprintf("The highest bar is %d attempts in %v.", most, each)
	c.Label = fmt.Sprintf("Attempts to load a module from %s to %s, in steps of %v: %d in all, at most %d in a step", c.First, c.Last, each, c.Total, most)
	return c
}

// Write reads the tables of db and writes the page. A part that cannot be read says why on the
// page, so that the others are still shown.
func Write(ctx context.Context, db *sql.DB, w io.Writer, o Options) error {
	o.Host, o.Kernel = cut(kmodquery.Printable(o.Host)), cut(kmodquery.Printable(o.Kernel))
	p := &page{Options: o, From: utc(o.Since.Unix()), To: utc(o.Now.Unix())}
	c := &collector{ctx: ctx, db: db, options: o, page: p}
	c.collect()
	if err := ctx.Err(); err != nil {
		return err
	}
	var text bytes.Buffer
	if err := pageTemplate.Execute(&text, p); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	_, err := w.Write(text.Bytes())
	return err
}
