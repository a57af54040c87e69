package loaded

import (
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"howett.net/plist"

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
		Kmutil:   filepath.Join(standins, "kmutil"),
		Csrutil:  filepath.Join(standins, "csrutil"),
		Codesign: filepath.Join(standins, "codesign"), KextPolicy: h.file,
	}, func() ([]string, error) { return nil, nil })
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
