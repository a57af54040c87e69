package tables

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

const autostartTable = "kernel_module_autostart"

// An autostart returns entries, and counts what is asked of it.
type autostart struct {
	entries  []kmodquery.AutostartEntry
	err      error
	files    []string
	packages []string
}

func (a *autostart) Entries(context.Context) ([]kmodquery.AutostartEntry, error) {
	return a.entries, a.err
}

func (a *autostart) FileAt(_ context.Context, path string) kmodquery.ModuleFile {
	a.files = append(a.files, path)
	return kmodquery.ModuleFile{Path: path, SHA256: "abc", Signer: "Debian\n", Package: "linux-image", Missing: "signer"}
}

func (a *autostart) Package(_ context.Context, path string) (string, bool) {
	a.packages = append(a.packages, path)
	return "kmod", path == "/etc/modprobe.d/a.conf"
}

var autostartEntries = []kmodquery.AutostartEntry{
	{Place: kmodquery.PlaceModprobe, Stage: kmodquery.StageAutoload, File: "/etc/modprobe.d/a.conf", Line: 2, Text: "softdep a pre: b\xff", Action: "softdep",
		Name: "b\xff", Requested: "a", Argument: "pre", Effective: new(int64(1)), Path: "/lib/b.ko", UID: new(int64(0)), Mode: new(int64(0o644)), Mtime: new(int64(7))},
	{Place: kmodquery.PlaceModulesLoad, Stage: kmodquery.StageBoot, File: "/etc/b.conf", Reason: "cannot read the file: it is a pipe", Missing: "line,text,action,name,effective"},
	{Place: kmodquery.PlaceCmdline, Stage: kmodquery.StageBoot, File: "/proc/cmdline", Text: "modules_load=b", Action: "load", Name: "b", Requested: "b",
		Effective: new(int64(0)), Reason: "blacklisted", Path: "/lib/b.ko"},
	{Place: kmodquery.PlaceCmdline, Stage: kmodquery.StageBoot, File: "/proc/cmdline", Text: "modules_load=b", Action: "load", Name: "b", Requested: "b",
		Missing: "effective,path"},
}

func autostartConfig(t *testing.T) (Config, *autostart) {
	c := testConfig(t)
	a := &autostart{entries: autostartEntries}
	c.Autostart = a
	return c, a
}

func TestAutostartShowsEveryColumn(t *testing.T) {
	c, a := autostartConfig(t)
	rows := rowsOf(t, c, autostartTable, "{}")
	require.Equal(t, []string{"/lib/b.ko"}, a.files, "each file is read once")
	require.Equal(t, []string{"/etc/modprobe.d/a.conf", "/etc/b.conf"}, a.packages)
	ids := map[string]bool{}
	for _, row := range rows {
		ids[row["rowid"]] = true
		delete(row, "rowid")
	}
	require.Len(t, ids, 4)
	require.Equal(t, []map[string]string{
		{"place": "modprobe.d", "stage": "autoload", "file": "/etc/modprobe.d/a.conf", "line": "2", "text": `softdep a pre: b\xff`, "action": "softdep",
			"name": `b\xff`, "requested": "a", "argument": "pre", "effective": "1", "path": "/lib/b.ko", "sha256": "abc", "signer": `Debian\x0a`,
			"package": "linux-image", "file_package": "kmod", "file_uid": "0", "file_mode": "0644", "file_mtime": "7", "missing": "signer"},
		{"place": "modules-load.d", "stage": "boot", "file": "/etc/b.conf", "reason": "cannot read the file: it is a pipe", "file_package": "kmod",
			"missing": "line,text,action,name,effective,file_package"},
		{"place": "cmdline", "stage": "boot", "file": "/proc/cmdline", "text": "modules_load=b", "action": "load", "name": "b", "requested": "b", "effective": "0",
			"reason": "blacklisted", "path": "/lib/b.ko", "sha256": "abc", "signer": `Debian\x0a`, "package": "linux-image", "missing": "signer"},
		{"place": "cmdline", "stage": "boot", "file": "/proc/cmdline", "text": "modules_load=b", "action": "load", "name": "b", "requested": "b",
			"missing": "effective,path,sha256,signer,package"},
	}, rows)
}

func TestAutostartReadsFilesOnDemand(t *testing.T) {
	c, a := autostartConfig(t)
	require.Len(t, rowsOf(t, c, autostartTable, contextJSON(t, []string{"name", "path"})), 4)
	require.Empty(t, a.files)
	require.Empty(t, a.packages)
}

func TestAutostartReturnsErrors(t *testing.T) {
	c, a := autostartConfig(t)
	a.err = errors.New("a file system does not answer")
	require.Equal(t, "error generating table: a file system does not answer", errorOf(t, c, autostartTable, "{}"))
	c.Autostart = nil
	require.Equal(t, "error generating table: not supported: a list of places that load modules on this platform; needs Linux", errorOf(t, c, autostartTable, "{}"))
}

// Root may write any number of lines.
func TestManyLinesOfAFileHideNoLineOfAnother(t *testing.T) {
	c, a := autostartConfig(t)
	a.entries = nil
	for i := range 500 {
		a.entries = append(a.entries, kmodquery.AutostartEntry{Place: kmodquery.PlaceModprobe, File: "/etc/many.conf", Text: fmt.Sprint("blacklist m", i)})
	}
	a.entries = append(a.entries, kmodquery.AutostartEntry{Place: kmodquery.PlaceUdev, File: "/etc/one.rules", Text: "last"})
	c.ReplyBytes = 20000
	rows := rowsOf(t, c, autostartTable, "{}")
	require.LessOrEqual(t, c.bound().cost(rows), c.ReplyBytes)
	require.Greater(t, len(rows), 50)
	texts := column(rows, "text")
	require.Contains(t, texts, "last")
	cut := rows[len(rows)-1]
	require.Equal(t, "/etc/many.conf", cut["file"])
	require.Equal(t, fmt.Sprintf("%d more rows of the file do not fit into the reply; select fewer columns", 502-len(rows)), cut["reason"])
	require.Contains(t, cut["missing"], "text")
	require.NotContains(t, cut, "effective")
}

func TestManyFilesHideNoLineOfAnother(t *testing.T) {
	c, a := autostartConfig(t)
	a.entries = []kmodquery.AutostartEntry{{Place: kmodquery.PlaceUdev, File: "/etc/one.rules", Text: "first"}}
	for i := range 3000 {
		a.entries = append(a.entries, kmodquery.AutostartEntry{Place: kmodquery.PlaceModprobe, File: fmt.Sprint("/etc/", i/3), Text: fmt.Sprint("blacklist m", i)})
	}
	c.ReplyBytes = 200_000
	rows := rowsOf(t, c, autostartTable, "{}")
	require.LessOrEqual(t, c.bound().cost(rows), c.ReplyBytes)
	require.Contains(t, column(rows, "text"), "first")
	require.Regexp(t, `^[0-9]+ more rows of 936 files do not fit`, rows[len(rows)-1]["reason"])
}

func TestAutostartIsBounded(t *testing.T) {
	c, _ := autostartConfig(t)
	c.ReplyBytes = 100
	require.Equal(t, "error generating table: reply would have more than 100 bytes, which 4 lines do not fit into; select fewer columns",
		errorOf(t, c, autostartTable, "{}"))
}
