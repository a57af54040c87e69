package kmodquery

import (
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"go/types"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// bound matches a constant in docs/bounds.md, and its value if one follows.
var bound = regexp.MustCompile("`([a-z/]+)\\.([A-Za-z]+)`(?: ([0-9]+)(?: (bytes|KiB|MiB|GiB|s|min|days)\\b)?)?")

var units = map[string]int64{
	"": 1, "bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30,
	"s": int64(time.Second), "min": int64(time.Minute), "days": 24 * int64(time.Hour),
}

// TestBoundsAreAsDocumented compares docs/bounds.md with the constants in the code,
// in both directions.
func TestBoundsAreAsDocumented(t *testing.T) {
	text, err := os.ReadFile("docs/bounds.md")
	require.NoError(t, err)
	documented := map[string]map[string]string{}
	values := map[string]int64{}
	for _, match := range bound.FindAllStringSubmatch(string(text), -1) {
		folder, name := match[1], match[2]
		if documented[folder] == nil {
			documented[folder] = map[string]string{}
		}
		documented[folder][name] = match[3]
		if match[3] != "" {
			number, err := strconv.ParseInt(match[3], 10, 64)
			require.NoError(t, err)
			values[folder+"."+name] = number * units[match[4]]
		}
	}
	for _, folder := range productFolders(t) {
		constants := constantsOf(t, folder)
		for name, value := range documented[folder] {
			got, ok := constants[name]
			require.True(t, ok, "%s has no constant %s", folder, name)
			if value != "" {
				require.Equal(t, values[folder+"."+name], got, "%s.%s", folder, name)
			}
		}
		for name := range constants {
			if _, ok := documented[folder][name]; !ok && strings.HasPrefix(name, "max") {
				t.Errorf("docs/bounds.md lacks the bound %s.%s", folder, name)
			}
		}
		delete(documented, folder)
	}
	require.Empty(t, documented, "docs/bounds.md names packages that do not exist")
}

// productFolders returns the folders with Go packages, except those below test.
func productFolders(t *testing.T) []string {
	t.Helper()
	var folders []string
	require.NoError(t, filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case !entry.IsDir():
			return nil
		case path == "test" || path != "." && strings.HasPrefix(entry.Name(), ".") || entry.Name() == "testdata":
			return filepath.SkipDir
		}
		if files, _ := filepath.Glob(filepath.Join(path, "*.go")); len(files) > 0 {
			folders = append(folders, path)
		}
		return nil
	}))
	return folders
}

// constantsOf returns the integer constants of a folder's package on all platforms.
func constantsOf(t *testing.T, folder string) map[string]int64 {
	t.Helper()
	paths, err := filepath.Glob(folder + "/*.go")
	require.NoError(t, err)
	fset := token.NewFileSet()
	var files []*ast.File
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") || strings.HasSuffix(path, "_arm64.go") || strings.Contains(path, "_bpfel.go") {
			continue
		}
		file, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		files = append(files, file)
	}
	config := types.Config{
		Importer:         onlyTime{},
		IgnoreFuncBodies: true,
		Error:            func(error) {}, // unresolved imports
	}
	checked, _ := config.Check(folder, fset, files, nil)
	constants := map[string]int64{}
	for _, name := range checked.Scope().Names() {
		if c, ok := checked.Scope().Lookup(name).(*types.Const); ok {
			if value, exact := constant.Int64Val(constant.ToInt(c.Val())); exact {
				constants[name] = value
			}
		}
	}
	return constants
}

// onlyTime provides the constants of package time that bounds use, and empty packages for
// all other imports. Compiling package time would take longer than the rest of the test.
type onlyTime struct{}

const timeSource = `package time

type Duration int64

const (
	Nanosecond  Duration = 1
	Microsecond          = 1000 * Nanosecond
	Millisecond          = 1000 * Microsecond
	Second               = 1000 * Millisecond
	Minute               = 60 * Second
	Hour                 = 60 * Minute
)
`

func (onlyTime) Import(name string) (*types.Package, error) {
	if name == "time" {
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, "time.go", timeSource, 0)
		if err != nil {
			return nil, err
		}
		return (&types.Config{}).Check("time", fset, []*ast.File{file}, nil)
	}
	empty := types.NewPackage(name, path.Base(name))
	empty.MarkComplete()
	return empty, nil
}
