package tables

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/osquery/osquery-go/plugin/table"
	"github.com/stretchr/testify/require"
)

var golden = flag.Bool("golden", false, "rewrite the golden files and the column reference")

func specs(t *testing.T) []table.OsqueryTableSpec {
	var specs []table.OsqueryTableSpec
	for _, p := range Plugins(testConfig(t)) {
		specs = append(specs, p.(*plugin).Spec())
	}
	return specs
}

// requireFile compares a file with what the tables say, or rewrites it.
func requireFile(t *testing.T, path, want string) {
	t.Helper()
	if *golden {
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(want), 0o644))
	}
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, want, string(got), "%s differs; if that is meant: make golden", path)
}

func TestSpecsAreAsPublished(t *testing.T) {
	for _, spec := range specs(t) {
		var b bytes.Buffer
		encoder := json.NewEncoder(&b)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		require.NoError(t, encoder.Encode(spec))
		requireFile(t, filepath.Join("..", "test", "golden", spec.Name+".json"), b.String())
	}
}

func TestColumnReferenceIsAsPublished(t *testing.T) {
	var b strings.Builder
	b.WriteString(`# Tables

<!-- Written by "go test ./tables -golden" from the column descriptions in the code. -->

A row's own number is ` + "`eid`" + `; ` + "`rowid`" + ` is only good inside SQLite. A value that is unknown or does not apply is NULL. Text that the host chose is
shown safely: each byte of a character that acts on a terminal (controls, direction of writing, what has no shape), and each
that is no UTF-8, stands as ` + "`\\xNN`" + `, and a backslash that would read as the start of one as ` + "`\\x5c`" + `. So every value is UTF-8, and stands for one
sequence of bytes only. The same holds of each text inside JSON (ancestors, requested_by, used_by, a finding's event), once it
is read as JSON.

"Index" columns are found through an index of the event store, "filter" columns are compared there, all others by osquery;
in the inventory, files are read only of modules whose name fits, and only where a column needs it.
Ask for a window of time, such as ` + "`time > strftime('%s', 'now') - 3600`" + `: a reply that would be too large fails with one
line that says which window fits.
`)
	for _, spec := range specs(t) {
		fmt.Fprintf(&b, "\n## %s\n\n%s.\n", spec.Name, spec.Description)
		b.WriteString("\n```sql\n" + strings.Join(spec.Examples, ";\n") + ";\n```\n")
		b.WriteString("\n| column | type | constraint | description |\n|---|---|---|---|\n")
		for _, column := range spec.Columns {
			constraint := ""
			switch {
			case column.Index:
				constraint = "index"
			case column.Additional:
				constraint = "filter"
			case column.Hidden:
				constraint = "hidden"
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", column.Name, column.Type, constraint, column.Description)
		}
	}
	requireFile(t, filepath.Join("..", "docs", "tables.md"), b.String())
}
