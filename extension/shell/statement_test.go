package shell

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSplitter(t *testing.T) {
	tests := map[string]struct {
		lines []string
		want  []string
		open  bool
	}{
		"one":                  {[]string{"SELECT 1;"}, []string{"SELECT 1"}, false},
		"two on a line":        {[]string{"SELECT 1; SELECT 2;"}, []string{"SELECT 1", "SELECT 2"}, false},
		"over lines":           {[]string{"SELECT", "", "1", ";"}, []string{"SELECT\n\n1"}, false},
		"unfinished":           {[]string{"SELECT 1"}, nil, true},
		"empty":                {[]string{";;", "  ", ";"}, nil, false},
		"string":               {[]string{"SELECT 'a;b''c;';"}, []string{"SELECT 'a;b''c;'"}, false},
		"string over lines":    {[]string{"SELECT 'a;", "b';"}, []string{"SELECT 'a;\nb'"}, false},
		"unfinished string":    {[]string{"SELECT 'a;"}, nil, true},
		"identifiers":          {[]string{"SELECT \"a;\", `b;`, [c;];"}, []string{"SELECT \"a;\", `b;`, [c;]"}, false},
		"quote in a quote":     {[]string{`SELECT "it's;";`}, []string{`SELECT "it's;"`}, false},
		"line comment":         {[]string{"SELECT 1 -- no; it's", "+ 1;"}, []string{"SELECT 1 -- no; it's\n+ 1"}, false},
		"block comment":        {[]string{"SELECT /* ; ' */ 1;"}, []string{"SELECT /* ; ' */ 1"}, false},
		"comment over lines":   {[]string{"SELECT /* ;", "-- */ 1;"}, []string{"SELECT /* ;\n-- */ 1"}, false},
		"slash star slash":     {[]string{"SELECT /*/ ; */ 1;"}, []string{"SELECT /*/ ; */ 1"}, false},
		"comment in a string":  {[]string{"SELECT '--', '/*';"}, []string{"SELECT '--', '/*'"}, false},
		"minus and division":   {[]string{"SELECT 4 - -2 / 2;"}, []string{"SELECT 4 - -2 / 2"}, false},
		"comments only":        {[]string{"-- nothing;", "/* at; all */;"}, nil, false},
		"open comment":         {[]string{"/* still"}, nil, true},
		"comment before":       {[]string{"-- why", "SELECT 1;"}, []string{"SELECT 1"}, false},
		"statement and a rest": {[]string{"SELECT 1; SELECT"}, []string{"SELECT 1"}, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var s splitter
			var got []string
			for _, line := range test.lines {
				got = append(got, s.feed(line)...)
			}
			require.Equal(t, test.want, got)
			require.Equal(t, test.open, s.open())
		})
	}
}
