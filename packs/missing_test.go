package packs_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/osquery/osquery-go/plugin/table"
	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/extension/virtualtable"
)

// modules is an inventory of modules with and without a package and a name.
type modules struct{}

func (modules) Modules(context.Context) ([]kmodquery.Module, error) {
	return []kmodquery.Module{
		{Name: "packaged", State: "Live", Size: new(int64(4096)), Views: []string{kmodquery.ViewModules, kmodquery.ViewSysfs}},
		{Name: "built", State: "Live", Views: []string{kmodquery.ViewModules}, LoadID: "1-1"},
		{Name: "hidden", Views: []string{kmodquery.ViewSysfs}, Path: "/tmp/hidden.ko"},
		{Address: new(int64(4096)), Views: []string{kmodquery.ViewVmallocinfo}},
	}, nil
}

func (modules) File(_ context.Context, m kmodquery.Module) kmodquery.ModuleFile {
	if m.Name == "packaged" {
		return kmodquery.ModuleFile{Path: "/lib/modules/packaged.ko", Package: "linux-image", SHA256: "ab", Signer: "Debian"}
	}
	return kmodquery.ModuleFile{}
}

// In osquery a missing text is empty, and in the shell it is NULL. Each statement has the
// same rows in both.
func TestStatementsIgnoreHowMissingTextIsShown(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	host := start(t, t.TempDir())
	e := newExtension(t, modules{})
	e.load(t, now.Add(-time.Minute), "dummy", 0)
	e.load(t, now.Add(-time.Minute), "refused", -22)
	event := func(name string, change func(*kmodquery.Event)) {
		event := kmodquery.Event{Time: now.Unix() - 10, EventName: name, Source: kmodquery.SourceEBPF}
		change(&event)
		e.append(t, event)
	}
	for _, name := range []string{
		kmodquery.EventModuleLoad, kmodquery.EventInitModule, kmodquery.EventFinitModule, kmodquery.EventDeleteModule, kmodquery.EventKextload,
		kmodquery.EventKextAllowed, kmodquery.EventKextunload, "module_hidden", "module_present", "taint_reset", "sensor_tampered", "request_module",
	} {
		event(name, func(*kmodquery.Event) {})
		event(name, func(e *kmodquery.Event) { e.Name, e.SignatureStatus, e.Result = "dummy", "valid", new(int64(-1)) })
		event(name, func(e *kmodquery.Event) {
			e.Name, e.LoadID, e.SignatureStatus, e.Source = "other", "2-2", "unsigned", "audit"
		})
	}
	event(kmodquery.EventModuleLoad, func(e *kmodquery.Event) { e.Name, e.Origin = "from memfd", kmodquery.OriginMemfd })
	ebpf := kmodquery.Sensor{Source: kmodquery.SourceEBPF, State: kmodquery.StateActive, Received: 7}
	audit := kmodquery.Sensor{Source: kmodquery.SourceAudit, State: kmodquery.StateStandby, Reason: "not needed"}
	troubled := ebpf
	troubled.StoreReason, troubled.Lost = "store: disk full", 3
	failed := ebpf
	failed.State = kmodquery.StateFailed

	defer e.serve(t, host)()
	require.NoError(t, host.Tick(t.Context(), now))
	shell := openShell(t, host, e)
	for name, statement := range documented(t) {
		t.Run(name, func(t *testing.T) {
			for _, sensors := range [][]kmodquery.Sensor{{ebpf, audit}, {troubled, audit}, {failed, audit}} {
				e.recorder.set(sensors...)
				inOsquery, err := host.Query(t.Context(), statement)
				require.NoError(t, err, statement)
				require.ElementsMatch(t, inOsquery, rowsIn(t, shell, statement), statement)
			}
		})
	}
}

// A healthy host ships no line of health, and a file without a package is found.
func TestMissingTextIsNoTrouble(t *testing.T) {
	host := start(t, t.TempDir())
	e := newExtension(t, modules{})
	defer e.serve(t, host)()
	require.NoError(t, host.Tick(t.Context(), noon))
	rows, err := host.Query(t.Context(), readPack(t).Queries["kernel_module_sensor_health"].Query)
	require.NoError(t, err)
	require.Empty(t, rows)
	rows, err = host.Query(t.Context(), documented(t)["tables.md: SELECT name, path, sha256, signer, package, missing FROM kernel_module_inventory WHERE coalesce(package, '') = ''"])
	require.NoError(t, err)
	require.Len(t, rows, 3)
}

// openShell attaches the extension's tables as the project's shell does, with the tables of
// osquery that the statements use.
func openShell(t *testing.T, host interface {
	Query(context.Context, string) ([]map[string]string, error)
}, e *extension) *sql.DB {
	t.Helper()
	of := func(name string, columns ...table.ColumnDefinition) *table.Plugin {
		return table.NewPlugin(name, columns, func(ctx context.Context, _ table.QueryContext) ([]map[string]string, error) {
			return host.Query(ctx, "SELECT * FROM "+name)
		})
	}
	plugins := []virtualtable.Plugin{
		of("time", table.BigIntColumn("unix_time")),
		of("osquery_registry", table.TextColumn("registry"), table.TextColumn("name"), table.IntegerColumn("active")),
	}
	for _, plugin := range e.plugins {
		plugins = append(plugins, plugin.(virtualtable.Plugin))
	}
	db, err := virtualtable.Open(t.Context(), plugins...)
	require.NoError(t, err)
	t.Cleanup(func() { db.Close() })
	return db
}

// rowsIn returns the rows of a statement as text, with NULL as "".
func rowsIn(t *testing.T, db *sql.DB, statement string) (all []map[string]string) {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), statement)
	require.NoError(t, err, statement)
	defer rows.Close()
	columns, err := rows.Columns()
	require.NoError(t, err)
	cells, pointers := make([]sql.NullString, len(columns)), make([]any, len(columns))
	for i := range cells {
		pointers[i] = &cells[i]
	}
	for rows.Next() {
		require.NoError(t, rows.Scan(pointers...))
		row := map[string]string{}
		for i, column := range columns {
			row[column] = cells[i].String
		}
		all = append(all, row)
	}
	require.NoError(t, rows.Err())
	return all
}

// In Markdown, statements are in blocks of SQL, in code, as arguments of the command query,
// and in its shell.
var (
	sqlBlock  = regexp.MustCompile("(?s)```sql\n(.*?)```")
	inCode    = regexp.MustCompile("`(SELECT [^`]+ FROM [^`…]+)`")
	argument  = regexp.MustCompile(`query "(SELECT [^"]+)"`)
	statement = regexp.MustCompile(`kmodquery> (SELECT [^;]+);`)
)

// documented returns the statements of the packs, of the tables' examples and of the
// documentation, by a name.
func documented(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	pack, f := readPack(t), readFleet(t)
	for name, query := range pack.Queries {
		all["pack: "+name] = query.Query
	}
	for i, query := range pack.Discovery {
		all["discovery: "+strconv.Itoa(i)] = query
	}
	for _, policy := range f.policies {
		all["policy: "+policy.Name] = policy.Query
	}
	for _, label := range f.labels {
		all["label: "+label.Name] = label.Query
	}
	files, err := filepath.Glob("../docs/*.md")
	require.NoError(t, err)
	files = append(files, "../README.md", "../packaging/macos/README.md")
	found := 0
	for _, file := range files {
		content, err := os.ReadFile(file)
		require.NoError(t, err)
		var list []string
		for _, block := range sqlBlock.FindAllSubmatch(content, -1) {
			list = append(list, slices.DeleteFunc(strings.Split(string(block[1]), ";\n"), func(s string) bool { return s == "" })...)
		}
		for _, pattern := range []*regexp.Regexp{inCode, argument, statement} {
			for _, match := range pattern.FindAllSubmatch(content, -1) {
				list = append(list, strings.ReplaceAll(string(match[1]), "\n      ...>", "\n"))
			}
		}
		for _, s := range list {
			all[filepath.Base(file)+": "+s] = s
		}
		found += len(list)
	}
	require.GreaterOrEqual(t, found, 15, fmt.Sprint(files))
	return all
}
