package loaded

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

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
	const mdm, user = kmodquery.PolicyMDM, kmodquery.PolicyUser
	p := policy{approvals: []approval{
		{mdm, "TEAM1", "com.a", true}, {mdm, "TEAM2", "", true}, {mdm, "TEAM3", "*", true}, {mdm, "TEAM4", "com.d", false}, {mdm, "", "", true},
		{user, "TEAM4", "com.d", true}, {user, "TEAM5", "com.e", true}, {user, "TEAM5", "com.f", false},
	}}
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
		"none":          {func(*mac) {}, 1, "KextPolicy, the history of loads; needs macOS 12 or later"},
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
		}, 2, "lacks kext_load_history_v3.cdhash"},
		"a table that never ends": {func(h *mac) {
			h.policy("CREATE VIEW kext_load_history_v3 AS WITH RECURSIVE n(path, bundle_id) AS (SELECT 1, 1 UNION ALL SELECT path + 1, 1 FROM n) SELECT * FROM n", userTable, mdmTable)
		}, 2, "lacks kext_load_history_v3.cdhash"},
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

// A process that is killed leaves its copy.
func TestStaleCopiesOfKextPolicyAreRemoved(t *testing.T) {
	h := newMac(t)
	h.policy(history11, userTable, mdmTable)
	h.write("kmodquery-kextpolicy-1/KextPolicy", "stale")
	h.write("kmodquery-kextpolicy-2/KextPolicy", "of another process")
	h.write("other/KextPolicy", "of another program")
	old := time.Now().Add(-staleAfter - time.Minute)
	require.NoError(t, os.Chtimes(filepath.Join(h.dir, "kmodquery-kextpolicy-1"), old, old))
	require.NoError(t, os.Chtimes(filepath.Join(h.dir, "other"), old, old))
	require.NoError(t, os.Symlink(filepath.Join(h.dir, "other"), filepath.Join(h.dir, "kmodquery-kextpolicy-3")))
	_, err := readPolicy(t.Context(), h.file)
	require.NoError(t, err)
	require.NoDirExists(t, filepath.Join(h.dir, "kmodquery-kextpolicy-1"))
	require.FileExists(t, filepath.Join(h.dir, "kmodquery-kextpolicy-2/KextPolicy"))
	require.FileExists(t, filepath.Join(h.dir, "other/KextPolicy"))
}

// KextPolicy on a file system that hangs holds up a query once.
func TestKextPolicyThatHangsDoesNotStopTheTables(t *testing.T) {
	h := newMac(t)
	h.policies.Timeout = 10 * time.Millisecond
	h.mu.Lock()
	for range 6 {
		modules, err := h.Modules(t.Context())
		require.NoError(t, err)
		require.Len(t, modules, 2)
		_, reason := h.Shown()
		require.Equal(t, "KextPolicy cannot be read: its file system does not answer", reason)
	}
	require.Equal(t, 1, h.policies.Running())
	h.mu.Unlock()
	require.Eventually(t, func() bool { return h.policies.Running() == 0 }, time.Minute, time.Millisecond)
}
