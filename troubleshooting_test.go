package kmodquery

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// inTroubleshooting matches the messages in the headings of docs/troubleshooting.md.
var (
	troubleHeading = regexp.MustCompile("(?m)^### (`.+)$")
	quotedMessage  = regexp.MustCompile("`([^`]+)`")
	verb           = regexp.MustCompile(`%(\[[0-9]+\])?[#+0-9]*[a-z%]`)
)

// TestMessagesOfTroubleshootingExist looks for each part of a message, without what differs, in
// the texts of the code.
func TestMessagesOfTroubleshootingExist(t *testing.T) {
	page, err := os.ReadFile("docs/troubleshooting.md")
	require.NoError(t, err)
	code := strings.Join(texts(t), "\n")
	headings := troubleHeading.FindAllStringSubmatch(string(page), -1)
	require.Greater(t, len(headings), 30)
	for _, heading := range headings {
		for _, message := range quotedMessage.FindAllStringSubmatch(heading[1], -1) {
			for part := range strings.SplitSeq(message[1], "…") {
				if part = strings.Trim(part, " '"); !strings.Contains(code, part) {
					t.Errorf("docs/troubleshooting.md has a message that no code has: %s (%q)", message[1], part)
				}
			}
		}
	}
}

// texts returns the texts in the product's code, with … for each verb and for what is put
// between them.
func texts(t *testing.T) (all []string) {
	t.Helper()
	for _, folder := range productFolders(t) {
		paths, err := filepath.Glob(folder + "/*.go")
		require.NoError(t, err)
		for _, path := range paths {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			require.NoError(t, err)
			ast.Inspect(file, func(n ast.Node) bool {
				if expression, ok := n.(ast.Expr); ok {
					if text, ok := textIn(expression); ok {
						all = append(all, verb.ReplaceAllStringFunc(text, func(v string) string {
							if v == "%%" {
								return "%"
							}
							return "…"
						}))
						return false
					}
				}
				return true
			})
		}
	}
	return all
}

// textIn returns the value of an expression of literals and their sums, with … for its other
// parts.
func textIn(e ast.Expr) (text string, ok bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		if e.Kind == token.STRING {
			text, err := strconv.Unquote(e.Value)
			return text, err == nil
		}
	case *ast.BinaryExpr:
		if e.Op != token.ADD {
			return "", false
		}
		left, isLeft := textIn(e.X)
		right, isRight := textIn(e.Y)
		if !isLeft {
			left = "…"
		}
		if !isRight {
			right = "…"
		}
		return left + right, isLeft || isRight
	}
	return "", false
}
