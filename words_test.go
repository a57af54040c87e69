package kmodquery

import (
	"bytes"
	"go/scanner"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"
)

// privateWords are words that earlier versions used for ideas that have a common
// name, with that name. No identifier contains them.
var privateWords = map[string]string{
	"account":     "health",
	"attend":      "sd_notify loop",
	"cheap":       "unprivileged",
	"custody":     "ack tracker",
	"distrust":    "mark unreliable",
	"doubleentry": "cross-view check",
	"evidence":    "image info",
	"handover":    "upgrade",
	"historian":   "backfiller",
	"inheritance": "carry-over",
	"ledger":      "module state",
	"lookback":    "backfill",
	"misfit":      "schema error",
	"receipt":     "dedup key",
	"repeater":    "at-least-once source",
	"settle":      "ack",
	"settlement":  "retirement",
	"teller":      "owner",
	"torn":        "truncated WAL",
	"witness":     "complete source",
}

// userWords are identifiers that contain a private word because a table shows it.
var userWords = []string{"cheap"} // a column of the store's schema, in its migrations

// TestIdentifiersUseCommonWords holds the vocabulary of the code: one word per idea,
// and the field's own word where there is one.
func TestIdentifiersUseCommonWords(t *testing.T) {
	identifier := regexp.MustCompile(`[A-Za-z_][A-Za-z0-9_]*`)
	require.NoError(t, filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && path != "." && strings.HasPrefix(entry.Name(), "."):
			return fs.SkipDir
		case path == "words_test.go" || strings.HasSuffix(path, "_bpfel.go"):
			return nil
		}
		switch filepath.Ext(path) {
		case ".go":
			text, err := os.ReadFile(path)
			require.NoError(t, err)
			var s scanner.Scanner
			file := token.NewFileSet().AddFile(path, -1, len(text))
			s.Init(file, text, nil, 0)
			for pos, tok, literal := s.Scan(); tok != token.EOF; pos, tok, literal = s.Scan() {
				if tok == token.IDENT {
					checkWords(t, path, file.Line(pos), literal)
				}
			}
		case ".c", ".h":
			text, err := os.ReadFile(path)
			require.NoError(t, err)
			for i, line := range bytes.Split(text, []byte("\n")) {
				for _, name := range identifier.FindAllString(string(line), -1) {
					checkWords(t, path, i+1, name)
				}
			}
		}
		return nil
	}))
}

// checkWords reports the private words of an identifier.
func checkWords(t *testing.T, path string, line int, name string) {
	t.Helper()
	if slices.Contains(userWords, name) {
		return
	}
	words := wordsOf(name)
	for i, word := range words {
		pair := ""
		if i+1 < len(words) {
			pair = word + words[i+1]
		}
		for _, private := range []string{word, strings.TrimSuffix(word, "s"), strings.TrimSuffix(word, "d"), pair} {
			if use, ok := privateWords[private]; ok {
				t.Errorf("%s:%d: %s: say %q instead of %q", path, line, name, use, private)
				break
			}
		}
	}
}

// wordsOf splits an identifier into its words, in lower case.
func wordsOf(name string) (words []string) {
	begin := 0
	runes := []rune(name)
	for i := range runes {
		isBoundary := i > begin && (runes[i] == '_' || unicode.IsUpper(runes[i]) && (!unicode.IsUpper(runes[i-1]) || i+1 < len(runes) && unicode.IsLower(runes[i+1])))
		if isBoundary {
			words = append(words, strings.ToLower(strings.Trim(string(runes[begin:i]), "_")))
			begin = i
		}
	}
	return append(words, strings.ToLower(strings.Trim(string(runes[begin:]), "_")))
}
