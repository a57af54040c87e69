package tables

import (
	"bytes"
	"database/sql"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/osquery/osquery-go/plugin/table"
	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/tables/signatures"
)

var golden = flag.Bool("golden", false, "rewrite the golden files and the column reference")

func specs(t *testing.T) []table.OsqueryTableSpec {
	var specs []table.OsqueryTableSpec
	for _, p := range Plugins(testConfig(t)) {
		specs = append(specs, p.(*plugin).Spec())
	}
	return specs
}

// requireFile compares a file with the wanted content, or rewrites it with -golden.
func requireFile(t *testing.T, path, want string) {
	t.Helper()
	if *golden {
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(want), 0o644))
	}
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, want, string(got), "%s differs; if that is intended, run make golden", path)
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

The column ` + "`eid`" + ` identifies an event; ` + "`rowid`" + ` has no meaning outside SQLite. A value that is unknown or does not apply is NULL. osquery shows missing text as ` + "`''`" + `, so conditions on text must hold for both: ` + "`coalesce(package, '') = ''`" + `.

The shell of ` + "`kmodquery.ext query`" + ` has these six tables, and of osquery's own ` + "`osquery_registry`, `time` and `users`" + `. To join them with others, use osquery.

Text that the host controls is escaped. Each byte of an unsafe character (control, format, line or paragraph separator, private
use) and of invalid UTF-8 becomes ` + "`\\xNN`" + `, and a backslash that would read as the start of such an escape becomes ` + "`\\x5c`" + `. So every value is valid
UTF-8, and different bytes never give the same value. The strings inside JSON (ancestors, requested_by, used_by, a finding's
event) are escaped in the same way, before they are written as JSON.

The event store has an index on the columns marked "index" and compares those marked "filter"; osquery compares all others.
The inventory reads files only for modules whose name matches the query, and only if a selected column needs them.
The autostart table reads modules' files only if a selected column needs them.
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

func TestDetectionsAreAsPublished(t *testing.T) {
	var b strings.Builder
	b.WriteString(`# Detections

<!-- Written by "go test ./tables -golden" from the signatures in the code. -->

Each signature is evaluated on the stored events when ` + "`kernel_module_findings`" + ` is queried, so a new signature also finds what was stored
before it. A finding names the event that caused it (` + "`trigger`, `eid`" + `), says in ` + "`reason`" + ` why, and has the columns behind that in ` + "`data`" + `.
A fact that is unknown makes no signature fire.

Several signatures can accept one load. TRC-1017 accepts every load, as its specification says: it is the record of what was
loaded. To see what stands out, ask for the others:

` + "```sql\nSELECT datetime(time, 'unixepoch'), severity, signature_id, reason FROM kernel_module_findings WHERE severity >= 2 AND signature_id != 'TRC-1017';\n```" + `

Events that any user can cause any number of times, such as denied calls, are findings of KMQ-1013 and TRC-1017 only. The packs
ship them as events, by kernel_module_denied.

Paths are those of the loader's mount namespace. kmod itself decompresses a module if the kernel does not know the compression,
and passes it from memory: then KMQ-1002 and KMQ-1015, which need the file, stay silent, and only KMQ-1001 and TRC-1017 tell of it.

| severity | meaning |
|---|---|
| 0 | informational: expected on this host, or of interest only beside another finding |
| 1 | low: honest hosts have it, such as a module that dkms built |
| 2 | moderate: deserves a look |
| 3 | high: rare on honest hosts; the false positives name which |
| 4 | critical: code in the kernel, or on its way there, hides itself or its origin |

| signature | name | severity | ATT&CK | condition |
|---|---|---|---|---|
`)
	for _, s := range signatures.All() {
		fmt.Fprintf(&b, "| %s | %s | %d | %s %s (%s) | %s |\n", s.ID, s.Name, s.Severity, s.ExternalID, s.Technique, s.Category, s.Condition)
	}
	b.WriteString(`
The numbers leave room for detections that need the past of a host, its packages or its autostart.

[docs/sigma](sigma) has each as a Sigma rule on rows of ` + "`kernel_module_events`" + `, for those who ship events and detect elsewhere. The rules do
not parse the JSON in ` + "`ancestors`" + `, and KMQ-1010's omits hidden files below /nix. [Rules and expectations](rules.md) of your own
are evaluated here.

## On an honest host

` + "`TestDebian`, in `make test-long`" + `, boots a Debian with systemd, udev, usual devices and the unit, loads modules by modules-load.d,
modprobe and the kernel's own requests, and loads a module that dkms built and signed with a key of its own. It fails if there is a row of
module_hidden, module_unwitnessed, taint_reset or sensor_tampered, a module_free that no hook saw, more loads than a module can have had,
or a finding of severity 2 or higher besides TRC-1017. What it counted:

| part | attempts | events (source ebpf / others) | false rows | findings |
|---|---|---|---|---|
| Debian 13, Linux 6.12, first boot | 72: 69 loaded, 3 whose devices are absent | 212 / 89, of which 73 module_present | 0 | TRC-1017 72 (severity 2), KMQ-1001 2 (severity 1: the dkms module, loaded twice) |
| The same after the upgrade to Linux 7.3, second boot, with four steps of the clock | 88: 85 loaded, 3 whose devices are absent | 223 / 78, of which 47 module_present | 0 | TRC-1017 88 (severity 2), KMQ-1001 2 (severity 1) |

`)
	for _, s := range signatures.All() {
		fmt.Fprintf(&b, "## %s: %s\n\n%s\n\n", s.ID, s.Name, s.Description)
		fmt.Fprintf(&b, "- **Fires** if: %s\n- **False positives**: %s\n- **Silence** it, for example, with `AND NOT (%s)`\n\n", s.Condition, s.FalsePositives, s.Silence)
	}
	requireFile(t, filepath.Join("..", "docs", "detections.md"), strings.TrimSuffix(b.String(), "\n"))
}

// SQLite accepts the condition of each example, which silences no finding whose facts are unknown.
func TestFindingsCanBeSilencedAsTheReferenceSays(t *testing.T) {
	var names []string
	for _, column := range findingColumns {
		names = append(names, column.Name)
	}
	db, err := sql.Open("sqlite", ":memory:")
	require.NoError(t, err)
	defer db.Close()
	db.SetMaxOpenConns(1)
	_, err = db.Exec("CREATE TABLE kernel_module_findings (" + strings.Join(names, ",") + ")")
	require.NoError(t, err)
	for _, s := range signatures.All() {
		var n int
		_, err := db.Exec("DELETE FROM kernel_module_findings; INSERT INTO kernel_module_findings(signature_id, eid) VALUES ('" + s.ID + "', 1)")
		require.NoError(t, err)
		require.NoError(t, db.QueryRow("SELECT count(*) FROM kernel_module_findings WHERE NOT ("+s.Silence+")").Scan(&n), s.ID)
		require.Equal(t, 1, n, s.ID)
		require.Contains(t, s.Silence, "signature_id = '"+s.ID+"'")
	}
}
