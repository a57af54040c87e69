package tables

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

// An inventory returns its readings in turn, and then the last one repeatedly.
type inventory struct {
	looks [][]kmodquery.Module
	count int
	files []string // names of the modules whose file was asked for
	err   error
}

func (i *inventory) Modules(context.Context) ([]kmodquery.Module, error) {
	look := i.looks[min(i.count, len(i.looks)-1)]
	i.count++
	return append([]kmodquery.Module(nil), look...), i.err
}

func (i *inventory) File(_ context.Context, m kmodquery.Module) kmodquery.ModuleFile {
	i.files = append(i.files, m.Name)
	if m.Name == "dummy" {
		return kmodquery.ModuleFile{Path: "/lib/dummy.ko", SHA256: "abc", Signer: "Debian\n", Package: "linux-image-6.1"}
	}
	file := kmodquery.ModuleFile{}
	file.Missing.Add("path", "sha256")
	return file
}

var (
	listedDummy = kmodquery.Module{
		Name: "dummy", Size: ptr(int64(16384)), Refs: ptr(int64(0)), UsedBy: []string{"a", "b\n"}, State: "Live",
		Address: ptr(int64(-0x3f000000)), Taints: ptr(int64(4096)), Version: "1.0", Srcversion: "ABC",
		Views:  []string{kmodquery.ViewModules, kmodquery.ViewSysfs},
		LoadID: "0123456789abcdef", FirstSeen: ptr(int64(1)), SignatureStatus: kmodquery.SignatureUnknown,
	}
	hiddenGhost = kmodquery.Module{Name: "gh\xffost", Views: []string{kmodquery.ViewFtrace}}
	nameless    = kmodquery.Module{Size: ptr(int64(8192)), Views: []string{kmodquery.ViewVmallocinfo}}
)

const inventoryTable = "kernel_module_inventory"

func inventoryConfig(t *testing.T, looks ...[]kmodquery.Module) (Config, *inventory) {
	c := testConfig(t)
	i := &inventory{looks: looks}
	c.Inventory = i
	return c, i
}

func TestInventoryShowsEveryColumn(t *testing.T) {
	c, i := inventoryConfig(t, []kmodquery.Module{listedDummy, hiddenGhost, nameless})
	rows := rowsOf(t, c, inventoryTable, "{}")
	require.Equal(t, []string{"dummy", "gh\xffost", ""}, i.files)
	require.Equal(t, 2, i.count)
	ids := map[string]bool{}
	for _, row := range rows {
		require.NotEmpty(t, row["rowid"])
		ids[row["rowid"]] = true
		delete(row, "rowid")
	}
	require.Len(t, ids, 3)
	require.Equal(t, []map[string]string{
		{"name": "dummy", "size": "16384", "refs": "0", "used_by": `["a","b\\x0a"]`, "state": "Live", "address": "0xffffffffc1000000",
			"taints": "4096", "taint_flags": "O", "version": "1.0", "srcversion": "ABC", "path": "/lib/dummy.ko", "sha256": "abc", "signer": `Debian\x0a`,
			"signature_status": "unknown",
			"package":          "linux-image-6.1", "load_id": "0123456789abcdef", "first_seen": "1", "views": `["modules","sysfs"]`, "hidden": "0"},
		{"name": `gh\xffost`, "views": `["ftrace"]`, "hidden": "1", "missing": "size,refs,state,address,taints,signature_status,version,srcversion,path,sha256"},
		{"size": "8192", "views": `["vmallocinfo"]`, "hidden": "1", "missing": "name,refs,state,address,taints,signature_status,version,srcversion,path,sha256"},
	}, rows)
}

// On macOS a kernel extension has no taints, and an unloaded one has only the columns
// that macOS remembers.
func TestInventoryOfKernelExtensions(t *testing.T) {
	live := kmodquery.Module{
		Name: "com.example.live", Size: ptr(int64(4096)), Refs: ptr(int64(0)), State: "Live", Address: ptr(int64(4096)), Version: "2",
		Views: []string{kmodquery.ViewShowloaded, kmodquery.ViewKextPolicy}, TeamID: "ABCDE12345", CDHash: "0123", Policy: kmodquery.PolicyMDM,
		LastLoaded: ptr(int64(1700000000)),
	}
	gone := kmodquery.Module{Name: "com.example.gone", State: kmodquery.ModuleGone, Path: "/tmp/gone.kext", Views: []string{kmodquery.ViewKextPolicy}}
	c, i := inventoryConfig(t, []kmodquery.Module{live, gone})
	rows := rowsOf(t, c, inventoryTable, contextJSON(t, []string{"name", "size", "state", "views", "hidden", "team_id", "cdhash", "policy", "last_loaded", "missing"}))
	for _, row := range rows {
		delete(row, "rowid")
	}
	require.Equal(t, []map[string]string{
		{"name": "com.example.live", "size": "4096", "state": "Live", "views": `["showloaded","kextpolicy"]`, "hidden": "0", "team_id": "ABCDE12345",
			"cdhash": "0123", "policy": "mdm", "last_loaded": "1700000000", "missing": "path,sha256"},
		{"name": "com.example.gone", "state": "Gone", "views": `["kextpolicy"]`, "hidden": "0", "missing": "path,sha256"},
	}, rows)
	require.Equal(t, 1, i.count, "nothing hides")
	require.Len(t, i.files, 2)
}

// The file is read only if the query uses a column that needs it.
func TestInventoryReadsFilesOnDemand(t *testing.T) {
	c, i := inventoryConfig(t, []kmodquery.Module{listedDummy, {Name: "nbd", Views: []string{kmodquery.ViewModules}}})
	rows := rowsOf(t, c, inventoryTable, contextJSON(t, []string{"name", "hidden"}))
	require.Equal(t, []string{"dummy", "nbd"}, column(rows, "name"))
	require.Empty(t, i.files)
	require.Equal(t, 1, i.count, "nothing hides")

	rows = rowsOf(t, c, inventoryTable, contextJSON(t, []string{"sha256"}, constraint{"name", "dummy", 2}))
	require.Equal(t, []string{"abc"}, column(rows, "sha256"))
	require.Equal(t, []string{"dummy"}, i.files)

	rows = rowsOf(t, c, inventoryTable, contextJSON(t, []string{"path"}, constraint{"name", "dummy", 2}, constraint{"name", "nosuch", 2}))
	require.Len(t, rows, 1)
	// A constraint that cannot be compared lets all through.
	rows = rowsOf(t, c, inventoryTable, contextJSON(t, []string{"name"}, constraint{"name", `a\x0a`, 2}, constraint{"size", "1", 2}))
	require.Len(t, rows, 2)
	require.Equal(t, []map[string]string{{}, {}}, rowsOf(t, c, inventoryTable, contextJSON(t, []string{})))
}

func TestInventoryReadsTheViewsTwiceBeforeItReportsAHiddenModule(t *testing.T) {
	unlisted := listedDummy
	unlisted.Views = []string{kmodquery.ViewSysfs}
	namesake := kmodquery.Module{Name: listedDummy.Name, LoadID: "other", Views: []string{kmodquery.ViewEvents}}
	require.NotEqual(t, identity(listedDummy), identity(namesake), "each row has an id of its own")
	used := contextJSON(t, []string{"name", "hidden"})
	for name, test := range map[string]struct {
		first, second []kmodquery.Module
		want          []string
	}{
		"it was loading":   {[]kmodquery.Module{unlisted}, []kmodquery.Module{listedDummy}, []string{"0"}},
		"it was unloading": {[]kmodquery.Module{unlisted}, nil, []string{}},
		"it hides":         {[]kmodquery.Module{unlisted}, []kmodquery.Module{unlisted}, []string{"1"}},
		"another comes":    {[]kmodquery.Module{nameless}, []kmodquery.Module{unlisted}, []string{}},
		"its namesake hides": {
			[]kmodquery.Module{listedDummy, namesake}, []kmodquery.Module{listedDummy, namesake}, []string{"0", "1"},
		},
		"its namesake hides now": {[]kmodquery.Module{listedDummy}, []kmodquery.Module{listedDummy, namesake}, []string{"0"}},
		"it hides now":           {[]kmodquery.Module{listedDummy, nameless}, []kmodquery.Module{unlisted}, []string{"0"}},
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := inventoryConfig(t, test.first, test.second)
			require.Equal(t, test.want, column(rowsOf(t, c, inventoryTable, used), "hidden"))
		})
	}
}

func TestInventoryReturnsErrors(t *testing.T) {
	c, i := inventoryConfig(t, nil)
	i.err = errors.New("list the modules: no proc")
	require.Equal(t, "error generating table: list the modules: no proc", errorOf(t, c, inventoryTable, "{}"))
	c.Inventory = nil
	require.Equal(t, "error generating table: not supported: an inventory of modules on this platform; needs Linux", errorOf(t, c, inventoryTable, "{}"))
}

// A rootkit may show any number of modules, and any users of each.
func TestInventoryIsBounded(t *testing.T) {
	var many []kmodquery.Module
	for i := range 100 {
		many = append(many, kmodquery.Module{Name: fmt.Sprint("m", i), UsedBy: []string{"a"}, Views: []string{kmodquery.ViewModules}})
	}
	c, i := inventoryConfig(t, many)
	c.ReplyBytes = 10_000
	require.Regexp(t, `^error generating table: reply would have more than 10000 bytes: only [1-9][0-9]? of 100 modules fit; select fewer columns, or modules by their names$`,
		errorOf(t, c, inventoryTable, "{}"))
	require.Less(t, len(i.files), 100, "the files of the others are not read")
	require.Len(t, rowsOf(t, c, inventoryTable, contextJSON(t, []string{"name"})), 100)
	require.Len(t, rowsOf(t, c, inventoryTable, contextJSON(t, nil, constraint{"name", "m7", equals})), 1)
	c.Worker = func() int64 { return 50_000 }
	require.Contains(t, errorOf(t, c, inventoryTable, contextJSON(t, []string{"name"})), "50000 bytes of osquery's worker, which its watchdog bounds: only ")
}
