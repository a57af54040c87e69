package loaded

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"howett.net/plist"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/darwin/host"
)

const (
	probe    = "com.example.driver.probe"
	probeRow = "  157    1 0xffffff7f96a8c000 0xff9      0xff9      com.example.driver.probe (1.2.3) D850472E-1111-2222-3333-444455556666 <12 7 5>\n"
	usbRow   = "   12    3 0                  0x4000     0x4000     com.apple.iokit.IOUSBHostFamily (1.2) 00000000-1111-2222-3333-444455556666 <7>\n"
	team     = "ABCDE12345"
)

// A mac is a Kexts with the folder of the files that direct the stand-ins, and a
// KextPolicy.
type mac struct {
	t    *testing.T
	dir  string
	file string // KextPolicy
	*Kexts
}

func newMac(t *testing.T) *mac {
	h := &mac{t: t, dir: t.TempDir()}
	t.Setenv("KMODQUERY_STANDINS", h.dir)
	t.Setenv("TMPDIR", h.dir)
	standins, err := filepath.Abs("../testdata/standins")
	require.NoError(t, err)
	h.file = filepath.Join(h.dir, "KextPolicy")
	h.Kexts = New(host.Programs{
		Kmutil: filepath.Join(standins, "kmutil"), Kextstat: filepath.Join(standins, "kextstat"),
		Codesign: filepath.Join(standins, "codesign"), KextPolicy: h.file,
	})
	h.bundles.folders = []string{filepath.Join(h.dir, "System"), filepath.Join(h.dir, "Library")}
	h.write("showloaded", usbRow+probeRow)
	return h
}

func (h *mac) write(name, text string) {
	h.t.Helper()
	path := filepath.Join(h.dir, name)
	require.NoError(h.t, os.MkdirAll(filepath.Dir(path), 0o700))
	require.NoError(h.t, os.WriteFile(path, []byte(text), 0o600))
}

// policy runs statements in KextPolicy. It keeps the database open until the test
// ends, so that their changes stay in the write-ahead log.
func (h *mac) policy(statements ...string) {
	h.t.Helper()
	db, err := sql.Open("sqlite", h.file)
	require.NoError(h.t, err)
	h.t.Cleanup(func() { db.Close() })
	db.SetMaxOpenConns(1)
	for _, s := range append([]string{"PRAGMA journal_mode = wal"}, statements...) {
		_, err := db.Exec(s)
		require.NoError(h.t, err, s)
	}
}

const (
	history11 = "CREATE TABLE kext_load_history_v3 (path TEXT PRIMARY KEY, team_id TEXT, bundle_id TEXT, boot_uuid TEXT, created_at TEXT, last_seen TEXT, flags INTEGER, cdhash TEXT)"
	userTable = "CREATE TABLE kext_policy (team_id TEXT, bundle_id TEXT, allowed BOOLEAN, developer_name TEXT, flags INTEGER, PRIMARY KEY (team_id, bundle_id))"
	mdmTable  = "CREATE TABLE kext_policy_mdm (team_id TEXT, bundle_id TEXT, allowed BOOLEAN, payload_uuid TEXT, PRIMARY KEY (team_id, bundle_id))"
)

var cdhash = strings.Repeat("0123456789", 4)

// bundle writes a bundle with an executable.
func (h *mac) bundle(folder, name, id string) string {
	h.t.Helper()
	text, err := plist.Marshal(map[string]any{
		"CFBundleIdentifier": id, "CFBundleVersion": "1.2.3", "CFBundleExecutable": "x",
		"IOKitPersonalities": map[string]any{"x": map[string]any{"IOClass": "x"}},
	}, plist.XMLFormat)
	require.NoError(h.t, err)
	h.write(filepath.Join(folder, name, "Contents/Info.plist"), string(text))
	h.write(filepath.Join(folder, name, "Contents/MacOS/x"), id)
	return filepath.Join(h.dir, folder, name)
}

func sha(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

func TestListedReturnsWhatKmutilLists(t *testing.T) {
	h := newMac(t)
	modules, err := h.Listed(t.Context())
	require.NoError(t, err)
	require.Equal(t, []kmodquery.Module{
		{Name: "com.apple.iokit.IOUSBHostFamily", Version: "1.2", State: "Live", Refs: new(int64(3)), Size: new(int64(0x4000)),
			UsedBy: []string{probe}, Views: []string{"showloaded"}},
		{Name: probe, Version: "1.2.3", State: "Live", Refs: new(int64(1)), Size: new(int64(0xff9)),
			Address: new(int64(-0x8069574000)), Views: []string{"showloaded"}},
	}, modules)
	require.False(t, modules[0].IsHidden())
	arguments, err := os.ReadFile(filepath.Join(h.dir, "kmutil.arguments"))
	require.NoError(t, err)
	require.Equal(t, "showloaded --list-only --no-kernel-components\n", string(arguments))
}

func TestListedUsesKextstatBeforeMacOS11(t *testing.T) {
	h := newMac(t)
	h.programs.Kmutil = filepath.Join(h.dir, "kmutil")
	h.write("kextstat.lines", "   12    0 0xffffff7f80a00000 0x4000     0x4000     com.example.old (4) <5 4>\n")
	modules, err := h.Listed(t.Context())
	require.NoError(t, err)
	require.Len(t, modules, 1)
	require.Equal(t, "com.example.old 4", modules[0].Name+" "+modules[0].Version)

	h.programs.Kextstat = filepath.Join(h.dir, "nosuch")
	_, err = h.Listed(t.Context())
	require.ErrorIs(t, err, kmodquery.ErrNotSupported)
}

func TestListedFailsIfKmutilFails(t *testing.T) {
	h := newMac(t)
	h.write("kmutil_fails", "Error Domain=KMErrorDomain Code=71\n\"Could not determine\"\n")
	_, err := h.Listed(t.Context())
	require.ErrorContains(t, err, `exit status 1: Error Domain=KMErrorDomain Code=71 "Could not determine"`)
	require.NotContains(t, err.Error(), "\n")
	require.NoError(t, os.Remove(filepath.Join(h.dir, "kmutil_fails")))

	h.write("showloaded", "")
	_, err = h.Listed(t.Context())
	require.ErrorContains(t, err, "lists none")

	h.write("showloaded", strings.Repeat(probeRow, maxList/len(probeRow)+1))
	_, err = h.Listed(t.Context())
	require.ErrorIs(t, err, errTooLong)

	h.write("kmutil_hangs", "")
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err = h.Listed(ctx)
	require.ErrorContains(t, err, "did not end")
	require.Less(t, time.Since(began), time.Minute)
}

func TestParseListIgnoresInvalidAndRepeatedLines(t *testing.T) {
	modules := parseList("Executing: /usr/bin/kmutil showloaded\n" +
		"Index Refs Address            Size       Wired      Name (Version) UUID <Linked Against>\n" +
		"x   1 0x1 0x1 0x1 com.example.x (1)\n" +
		"  1  -1 0x1 0x1 0x1 com.example.a ()\r\n" +
		"  1   1 0x1 0x1 0x1 com.example.a (2) again\n" +
		"  2   1 0x1 0x1 0x1 com.example.b (2) D850472E-1111-2222-3333-444455556666\n" +
		"  3   1 0x1 0x1 0x1 com.example.b (3)\n" +
		"  4   1 0x11111111111111111 0x1 0x1 com.example.c (3)\n")
	require.Len(t, modules, 2)
	require.Equal(t, "com.example.a", modules[0].Name)
	require.EqualValues(t, -1, *modules[0].Refs)
	require.Equal(t, "2", modules[1].Version)
}

func TestModulesHaveTheDetailsOfKextPolicy(t *testing.T) {
	h := newMac(t)
	h.policy(history11, userTable, mdmTable,
		"INSERT INTO kext_load_history_v3 VALUES ('/Library/Extensions/old.kext', 'OLDTEAM123', '"+probe+"', 'B1', '2020-01-01 00:00:00', '2020-01-01 00:00:00', 1, NULL)",
		"INSERT INTO kext_load_history_v3 VALUES ('/Library/Extensions/probe.kext', '"+team+"', '"+probe+"', 'B2', '2026-11-01 10:00:00', '2026-11-24 09:30:00', 53, '"+cdhash+"')",
		"INSERT INTO kext_load_history_v3 VALUES ('/private/tmp/gone.kext', '', 'com.example.gone', 'B0', '2025-01-01 00:00:00', '2025-01-02 00:00:00', 1, 'x')",
		"INSERT INTO kext_policy VALUES ('', 'com.example.gone', 0, 'Unidentified', 0)",
		"INSERT INTO kext_policy VALUES ('"+team+"', '"+probe+"', 0, 'Example', 1)",
		"INSERT INTO kext_policy_mdm VALUES ('"+team+"', '', 1, 'P')")
	modules, err := h.Modules(t.Context())
	require.NoError(t, err)
	require.Len(t, modules, 2)
	require.Equal(t, []string{"showloaded"}, modules[0].Views)
	require.Empty(t, modules[0].Policy)
	m := modules[1]
	require.Equal(t, []string{"showloaded", "kextpolicy"}, m.Views)
	require.Equal(t, "/Library/Extensions/probe.kext "+team+" "+cdhash+" mdm", m.Path+" "+m.TeamID+" "+m.CDHash+" "+m.Policy)
	require.Equal(t, time.Date(2026, 11, 24, 9, 30, 0, 0, time.UTC).Unix(), *m.LastLoaded)
	shown, reason := h.Shown()
	require.Equal(t, []string{"showloaded", "kextpolicy"}, shown)
	require.Empty(t, reason)

	all, err := h.All(t.Context())
	require.NoError(t, err)
	require.Len(t, all, 3)
	gone := all[2]
	require.Equal(t, kmodquery.Module{
		Name: "com.example.gone", State: "Gone", Views: []string{"kextpolicy"}, Path: "/private/tmp/gone.kext", Policy: "unapproved",
		LastLoaded: new(time.Date(2025, 1, 2, 0, 0, 0, 0, time.UTC).Unix()),
	}, gone)
	require.False(t, gone.IsHidden())

	confirmed, err := h.Confirm(t.Context(), all)
	require.NoError(t, err)
	require.Empty(t, confirmed)
	taint, err := h.Taint(t.Context())
	require.NoError(t, err)
	require.Zero(t, taint)

	// KextPolicy is read again when it changes.
	h.policy("UPDATE kext_policy_mdm SET allowed = 0")
	modules, err = h.Modules(t.Context())
	require.NoError(t, err)
	require.Equal(t, "unapproved", modules[1].Policy)
	h.policy("DELETE FROM kext_policy_mdm", "UPDATE kext_policy SET allowed = 1")
	modules, err = h.Modules(t.Context())
	require.NoError(t, err)
	require.Equal(t, "user", modules[1].Policy)
	left, err := filepath.Glob(filepath.Join(h.dir, "kmodquery-kextpolicy-*"))
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestDeviceManagementTakesPrecedenceOverTheUser(t *testing.T) {
	p := policy{
		mdm:  []approval{{"TEAM1", "com.a", true}, {"TEAM2", "", true}, {"TEAM3", "*", true}, {"TEAM4", "com.d", false}, {"", "", true}},
		user: []approval{{"TEAM4", "com.d", true}, {"TEAM5", "com.e", true}, {"TEAM5", "com.f", false}},
	}
	for extension, want := range map[[2]string]string{
		{"TEAM1", "com.a"}: "mdm", {"TEAM1", "com.b"}: "", {"TEAM2", "com.b"}: "mdm", {"TEAM3", "com.c"}: "mdm", {"TEAM4", "com.d"}: "unapproved",
		{"TEAM5", "com.e"}: "user", {"TEAM5", "com.f"}: "unapproved", {"TEAM6", "com.e"}: "", {"", "com.e"}: "user", {"", "com.z"}: "", {"", "com.a"}: "mdm",
	} {
		require.Equal(t, want, p.approval(extension[0], extension[1]), extension)
	}
}

func TestKextPoliciesOfOtherKinds(t *testing.T) {
	for name, test := range map[string]struct {
		make   func(h *mac)
		shown  int
		reason string
	}{
		"none":          {func(*mac) {}, 1, "KextPolicy, the history of loads; needs macOS 10.13 or later"},
		"no database":   {func(h *mac) { h.write("KextPolicy", strings.Repeat("no database\n", 100)) }, 1, "file is not a database"},
		"a folder":      {func(h *mac) { require.NoError(h.t, os.Mkdir(h.file, 0o700)) }, 1, "is not a regular file"},
		"a pipe":        {func(h *mac) { require.NoError(h.t, syscall.Mkfifo(h.file, 0o600)) }, 1, "is not a regular file"},
		"too large":     {func(h *mac) { h.write("KextPolicy", ""); require.NoError(h.t, os.Truncate(h.file, maxPolicy+1)) }, 1, "more than 67108864 bytes"},
		"empty":         {func(h *mac) { h.policy() }, 1, "lacks kext_load_history_v3, kext_policy, kext_policy_mdm: earlier loads are unknown"},
		"before 11":     {func(h *mac) { h.policy(strings.Replace(history11, ", cdhash TEXT", "", 1), userTable, mdmTable) }, 2, "lacks kext_load_history_v3.cdhash"},
		"other columns": {func(h *mac) { h.policy("CREATE TABLE kext_load_history_v3 (a, b)", userTable, mdmTable) }, 2, "lacks kext_load_history_v3.path"},
		"odd values": {func(h *mac) {
			h.policy("CREATE TABLE kext_load_history_v3 (path, bundle_id, last_seen)", userTable, mdmTable,
				"INSERT INTO kext_load_history_v3 VALUES (x'00ff', '"+probe+"', 5), (NULL, NULL, NULL), (zeroblob(5000000), '"+probe+"', 'yesterday')")
		}, 2, "lacks kext_load_history_v3.boot_uuid"},
		"a table that never ends": {func(h *mac) {
			h.policy("CREATE VIEW kext_load_history_v3 AS WITH RECURSIVE n(path, bundle_id) AS (SELECT 1, 1 UNION ALL SELECT path + 1, 1 FROM n) SELECT * FROM n", userTable, mdmTable)
		}, 2, "lacks kext_load_history_v3.boot_uuid"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newMac(t)
			test.make(h)
			shown, reason := h.Shown()
			require.Len(t, shown, test.shown)
			require.Contains(t, reason, test.reason)
			require.NotContains(t, reason, "\n")
			modules, err := h.Modules(t.Context())
			require.NoError(t, err)
			require.Len(t, modules, 2)
			require.Empty(t, modules[1].Path)
		})
	}
}

func TestAForbiddenKextPolicyNeedsFullDiskAccess(t *testing.T) {
	err := explainPolicy("/var/db/SystemPolicyConfiguration/KextPolicy", fmt.Errorf("open: %w", syscall.EPERM))
	require.ErrorIs(t, err, kmodquery.ErrNotSupported)
	require.ErrorContains(t, err, "Full Disk Access for kmodquery.ext")
}

func TestFileDescribesTheBundleOfAnExtension(t *testing.T) {
	h := newMac(t)
	path := h.bundle("Library", "probe.kext", probe)
	h.write("signatures/probe.kext", "Identifier="+probe+"\nCDHash="+cdhash+"\nSignature size=9000\nAuthority=Developer ID Application: Example ("+team+")\nAuthority=Developer ID Certification Authority\nAuthority=Apple Root CA\nTeamIdentifier="+team+"\n")
	want := kmodquery.ModuleFile{
		Path: path, SHA256: sha(probe), Signer: "Developer ID Application: Example (" + team + ")", TeamID: team, CDHash: cdhash,
	}
	require.Equal(t, want, h.File(t.Context(), kmodquery.Module{Name: probe}))
	require.Equal(t, want, h.File(t.Context(), kmodquery.Module{Name: probe, Path: path}))
	require.Equal(t, want, h.File(t.Context(), kmodquery.Module{Name: probe, Path: "/nosuch"}))
	require.Equal(t, want, h.File(t.Context(), kmodquery.Module{Name: probe, Path: h.bundle("elsewhere", "x.kext", "com.example.other")}))
	arguments, err := os.ReadFile(filepath.Join(h.dir, "codesign.arguments"))
	require.NoError(t, err)
	require.Contains(t, string(arguments), "-d --verbose=4 "+path+"\n")

	// An unsigned bundle inside another one. The first folder counts.
	inner := h.bundle("System/outer.kext/Contents/PlugIns", "inner.kext", "com.example.inner")
	h.bundle("System", "outer.kext", "com.example.outer")
	h.bundle("Library", "inner.kext", "com.example.inner")
	require.Equal(t, kmodquery.ModuleFile{Path: inner, SHA256: sha("com.example.inner")}, h.File(t.Context(), kmodquery.Module{Name: "com.example.inner"}))

	// A bundle without an executable, like Apple's.
	require.NoError(t, os.Remove(filepath.Join(path, "Contents/MacOS/x")))
	got := h.File(t.Context(), kmodquery.Module{Name: probe})
	require.Equal(t, team+" sha256", got.TeamID+" "+got.Missing)

	require.Equal(t, kmodquery.ModuleFile{Missing: "path,sha256,signer,team_id,cdhash"}, h.File(t.Context(), kmodquery.Module{Name: "com.example.none"}))
	other := h.bundle("elsewhere", "y.kext", "com.example.other")
	require.Equal(t, kmodquery.ModuleFile{Path: other, Missing: "sha256,signer,team_id,cdhash"}, h.File(t.Context(), kmodquery.Module{Name: "com.example.none", Path: other}))
}

func TestFileOfAHostileBundle(t *testing.T) {
	h := newMac(t)
	name := "x\nAuthority=Apple.kext"
	path := h.bundle("Library", name, probe)
	h.write(filepath.Join("signatures", name), "TeamIdentifier=not set\n")
	file := h.File(t.Context(), kmodquery.Module{Name: probe, Path: path})
	require.Equal(t, kmodquery.ModuleFile{Path: path, SHA256: sha(probe), Missing: "signer,team_id,cdhash"}, file)

	// An executable that is a pipe.
	path = h.bundle("Library", "pipe.kext", probe)
	executable := filepath.Join(path, "Contents/MacOS/x")
	require.NoError(t, os.Remove(executable))
	require.NoError(t, syscall.Mkfifo(executable, 0o600))
	require.Contains(t, h.File(t.Context(), kmodquery.Module{Name: probe, Path: path}).Missing, "sha256")

	h.write("codesign_hangs", "")
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	require.Contains(t, h.File(ctx, kmodquery.Module{Name: probe, Path: path}).Missing, "cdhash")
	require.Less(t, time.Since(began), time.Minute)
}

func TestParseSignatureTakesTheFirstAuthority(t *testing.T) {
	require.Equal(t, signature{}, parseSignature("Signature=adhoc\nTeamIdentifier=not set\nCDHash=xyz\n"))
	require.Equal(t, signature{authority: "Software Signing", cdhash: cdhash}, parseSignature("CDHash="+cdhash+"\nAuthority=Software Signing\nAuthority=Apple Root CA\nTeamIdentifier=not set"))
}
