package kmodquery

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Each test that docs/threat-model.md names must exist.
func TestTheThreatModelNamesTests(t *testing.T) {
	page, err := os.ReadFile("docs/threat-model.md")
	require.NoError(t, err)
	var source strings.Builder
	require.NoError(t, filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		source.Write(text)
		return err
	}))
	names := regexp.MustCompile("`(Test[A-Za-z0-9]+)`").FindAllStringSubmatch(string(page), -1)
	require.Greater(t, len(names), 30)
	for _, name := range names {
		exists := name[1] == "TestGuest" || strings.Contains(source.String(), "func "+name[1]+"(t *testing.T)")
		require.True(t, exists, name[1])
	}
}
