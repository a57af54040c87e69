package report

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"
)

// void are the elements without an end.
var void = []string{"meta", "link", "img", "br", "hr", "input"}

// outside matches what a browser would fetch or run.
var outside = regexp.MustCompile(`(?i)url\s*\(|@import|javascript:|data:|<\s*(script|iframe|object|embed|link|base|form)\b`)

// requireValid checks that a page is well formed HTML, can be used without seeing it, and
// fetches nothing.
func requireValid(t tester, page string) {
	t.Helper()
	require.True(t, strings.HasPrefix(page, "<!DOCTYPE html>"))
	requireNested(t, page)
	document, err := html.Parse(strings.NewReader(page))
	require.NoError(t, err)
	ids, links, labels := map[string]bool{}, []string{}, []string{}
	level := 0
	seen := map[atom.Atom]int{}
	for node := range document.Descendants() {
		if node.Type != html.ElementNode {
			continue
		}
		seen[node.DataAtom]++
		for _, a := range node.Attr {
			switch a.Key {
			case "id":
				require.False(t, ids[a.Val], "the id %s is there twice", a.Val)
				require.Regexp(t, `^[A-Za-z][A-Za-z0-9_-]*$`, a.Val)
				ids[a.Val] = true
			case "href":
				require.True(t, strings.HasPrefix(a.Val, "#"), "a link leads out of the page: %s", a.Val)
				links = append(links, a.Val[1:])
			case "aria-labelledby":
				labels = append(labels, strings.Fields(a.Val)...)
			case "src", "srcset", "action", "data", "poster", "background", "formaction", "xlink:href", "style":
				t.Errorf("<%s> has the attribute %s", node.Data, a.Key)
			}
			require.False(t, strings.HasPrefix(a.Key, "on"), "<%s> runs a script: %s", node.Data, a.Key)
		}
		switch node.DataAtom {
		case atom.Html:
			require.Equal(t, "en", attribute(node, "lang"))
		case atom.H1, atom.H2, atom.H3, atom.H4, atom.H5, atom.H6:
			next := int(node.Data[1] - '0')
			require.LessOrEqual(t, next, level+1, "a heading skips a level: %s", contentOf(node))
			require.NotEmpty(t, contentOf(node))
			level = next
		case atom.Th:
			require.Contains(t, []string{"col", "row"}, attribute(node, "scope"))
		case atom.Table:
			requireTable(t, node)
		case atom.Title:
			if node.Parent.DataAtom == atom.Head {
				require.NotEmpty(t, contentOf(node))
			}
		case atom.Svg:
			require.Equal(t, "img", attribute(node, "role"))
			require.NotEmpty(t, attribute(node, "aria-label"))
		case atom.Script, atom.Iframe, atom.Link, atom.Form:
			t.Errorf("the page has <%s>", node.Data)
		}
		if attribute(node, "role") == "region" {
			require.NotEmpty(t, attribute(node, "aria-labelledby"))
			require.Equal(t, "0", attribute(node, "tabindex"), "the keyboard cannot scroll it")
		}
	}
	for _, tag := range []atom.Atom{atom.H1, atom.Main, atom.Nav, atom.Header, atom.Footer} {
		require.Equal(t, 1, seen[tag], tag.String())
	}
	for _, id := range append(links, labels...) {
		require.True(t, ids[id], "nothing has the id %s", id)
	}
	require.Contains(t, page, `content="default-src 'none'; style-src 'unsafe-inline'"`)
	style := page[strings.Index(page, "<style>"):strings.Index(page, "</style>")]
	require.NotRegexp(t, outside, style)
	head, _, _ := strings.Cut(page, "<body>")
	require.NotRegexp(t, `(?i)https?://|//[a-z]`, head)
	require.NotRegexp(t, regexp.MustCompile(`(?i)<\s*(script|iframe|object|embed|link|base|form)\b`), page)
}

// requireTable checks the shape of a table.
func requireTable(t tester, node *html.Node) {
	t.Helper()
	columns := -1
	var captions int
	for child := range node.Descendants() {
		switch child.DataAtom {
		case atom.Caption:
			captions++
			require.NotEmpty(t, contentOf(child))
		case atom.Tr:
			cells := 0
			for cell := range child.ChildNodes() {
				if cell.Type == html.ElementNode {
					cells++
				}
			}
			if columns < 0 {
				columns = cells
			}
			require.Equal(t, columns, cells, "a row has another number of cells: %s", contentOf(child))
		}
	}
	require.Equal(t, 1, captions)
	require.Positive(t, columns)
}

// requireNested checks that each element ends where its parent expects it. A parser of HTML
// repairs what is nested wrongly without a word.
func requireNested(t tester, page string) {
	t.Helper()
	var open []string
	tokens := html.NewTokenizer(strings.NewReader(page))
	for {
		switch kind := tokens.Next(); kind {
		case html.ErrorToken:
			require.Empty(t, open, "elements without an end")
			return
		case html.StartTagToken:
			token := tokens.Token()
			if token.Data == "p" || token.Data == "caption" || strings.HasPrefix(token.Data, "h") && len(token.Data) == 2 {
				require.NotContains(t, open, "p", "<%s> in <p>", token.Data)
			}
			if !slices.Contains(void, token.Data) {
				open = append(open, token.Data)
			}
			for i, a := range token.Attr {
				for _, b := range token.Attr[:i] {
					require.NotEqual(t, a.Key, b.Key, "<%s> has an attribute twice", token.Data)
				}
			}
		case html.EndTagToken:
			token := tokens.Token()
			require.NotEmpty(t, open, "</%s> ends nothing", token.Data)
			require.Equal(t, open[len(open)-1], token.Data, "</%s> ends another element", token.Data)
			open = open[:len(open)-1]
		}
	}
}

func attribute(node *html.Node, name string) string {
	for _, a := range node.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

// contentOf returns the text in a node.
func contentOf(node *html.Node) string {
	var text strings.Builder
	for child := range node.Descendants() {
		if child.Type == html.TextNode {
			text.WriteString(child.Data)
		}
	}
	return strings.TrimSpace(text.String())
}

// textOf returns the text of a page as a reader gets it.
func textOf(t *testing.T, page string) string {
	t.Helper()
	document, err := html.Parse(strings.NewReader(page))
	require.NoError(t, err)
	var text strings.Builder
	for node := range document.Descendants() {
		if node.Type == html.TextNode && node.Parent.DataAtom != atom.Style {
			text.WriteString(node.Data + " ")
		}
	}
	return text.String()
}

func TestInvalidPagesAreFound(t *testing.T) {
	page := newPage(t, &fakeHost{}, 0)
	for name, change := range map[string][2]string{
		"nesting":     {"</section>", "</main>"},
		"language":    {` lang="en"`, ""},
		"level":       {"<h2", "<h4"},
		"twice an id": {`id="timeline"`, `id="findings"`},
		"link":        {`href="#content"`, `href="https://example.org"`},
		"no target":   {`href="#loads"`, `href="#gone"`},
		"script":      {"<footer>", "<footer><script></script>"},
		"event":       {"<footer>", `<footer onclick="x">`},
		"style":       {"</style>", "@import 'x';</style>"},
		"scope":       {"<footer>", "<footer><table><caption>x</caption><tbody><tr><th>x</th></tr></tbody></table>"},
		"caption":     {"<footer>", "<footer><table><tbody><tr><td>x</td></tr></tbody></table>"},
	} {
		t.Run(name, func(t *testing.T) {
			changed := strings.Replace(page, change[0], change[1], 1)
			require.NotEqual(t, page, changed)
			require.True(t, fails(func(t tester) { requireValid(t, changed) }), "it was not found")
		})
	}
}

// A tester is a test, or notes that it fails.
type tester interface {
	require.TestingT
	Helper()
}

// A trial notes whether a check fails.
type trial struct{ failed bool }

func (t *trial) Errorf(string, ...any) { t.failed = true }
func (t *trial) FailNow()              { panic(t) }
func (t *trial) Helper()               {}

// fails reports whether a check fails.
func fails(check func(tester)) bool {
	t := &trial{}
	func() {
		defer func() {
			if p := recover(); p != nil && p != t {
				panic(p)
			}
		}()
		check(t)
	}()
	return t.failed
}
