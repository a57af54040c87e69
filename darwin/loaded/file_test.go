package loaded

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

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
	require.Equal(t, team+" sha256", got.TeamID+" "+got.Missing.String())

	require.Equal(t, kmodquery.ModuleFile{Missing: "path,sha256,signer,team_id,cdhash"}, h.File(t.Context(), kmodquery.Module{Name: "com.example.none"}))
	other := h.bundle("elsewhere", "y.kext", "com.example.other")
	require.Equal(t, kmodquery.ModuleFile{Path: other, Missing: "sha256,signer,team_id,cdhash"}, h.File(t.Context(), kmodquery.Module{Name: "com.example.none", Path: other}))
}

func TestFileOfARelativePathIsUnknown(t *testing.T) {
	h := newMac(t)
	t.Chdir(filepath.Dir(h.bundle("elsewhere", "--xml.kext", "com.example.none")))
	want := kmodquery.ModuleFile{Path: "--xml.kext", Missing: "sha256,signer,team_id,cdhash"}
	require.Equal(t, want, h.File(t.Context(), kmodquery.Module{Name: "com.example.none", Path: "--xml.kext"}))
	require.NoFileExists(t, filepath.Join(h.dir, "codesign.arguments"))

	path := h.bundle("Library", "probe.kext", probe)
	require.Equal(t, path, h.File(t.Context(), kmodquery.Module{Name: probe, Path: "probe.kext"}).Path)
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

// Look-ups on a file system that hangs, here while they wait for the list of bundles, hold up
// a query once each, and four at most.
func TestFilesThatHangHoldUpFewLookups(t *testing.T) {
	h := newMac(t)
	path := h.bundle("elsewhere", "x.kext", probe)
	h.bundles.mu.Lock()
	const unknown = "path,sha256,signer,team_id,cdhash"
	for _, name := range []string{"a", "b", "c"} {
		h.files.Timeout = 10 * time.Millisecond
		require.EqualValues(t, unknown, h.File(t.Context(), kmodquery.Module{Name: name}).Missing)
		h.files.Timeout = time.Hour
		require.EqualValues(t, unknown, h.File(t.Context(), kmodquery.Module{Name: name}).Missing, "it is not looked up again")
		require.Equal(t, sha(probe), h.File(t.Context(), kmodquery.Module{Name: probe, Path: path}).SHA256)
	}
	h.files.Timeout = 10 * time.Millisecond
	require.EqualValues(t, unknown, h.File(t.Context(), kmodquery.Module{Name: "d"}).Missing)
	h.files.Timeout = time.Hour
	require.Equal(t, kmodquery.ModuleFile{Path: path, Missing: "sha256,signer,team_id,cdhash"}, h.File(t.Context(), kmodquery.Module{Name: probe, Path: path}))
	h.bundles.mu.Unlock()
	require.Eventually(t, func() bool { return h.files.Running() == 0 }, time.Minute, time.Millisecond)
	require.Equal(t, sha(probe), h.File(t.Context(), kmodquery.Module{Name: probe, Path: path}).SHA256)
}

func TestFilesOfRemoteFileSystemsAreNotRead(t *testing.T) {
	h := newMac(t)
	path := h.bundle("remote/Folder", "x.kext", probe)
	local := h.bundle("remoteness", "x.kext", probe)
	h.bundle("Library", "y.kext", "com.example.y")
	h.remote = func() ([]string, error) {
		return []string{filepath.Join(h.dir, "remote"), filepath.Join(h.dir, "Library/y.kext"), "/private/tmp/remote"}, nil
	}
	unread := kmodquery.Columns("sha256,signer,team_id,cdhash")
	require.Equal(t, kmodquery.ModuleFile{Path: path, Missing: unread}, h.File(t.Context(), kmodquery.Module{Name: probe, Path: path}))
	other := filepath.Join(h.dir, "Remote/folder/x.kext") // macOS compares names without case
	require.Equal(t, kmodquery.ModuleFile{Path: other, Missing: unread}, h.File(t.Context(), kmodquery.Module{Name: probe, Path: other}))
	require.Equal(t, kmodquery.Columns("path,")+unread, h.File(t.Context(), kmodquery.Module{Name: "com.example.y"}).Missing)
	require.Equal(t, sha(probe), h.File(t.Context(), kmodquery.Module{Name: probe, Path: local}).SHA256)
	for path, want := range map[string]bool{
		"/tmp/remote/x": true, "/private/tmp/../tmp/remote": true, "/tmp": false, "/System/Volumes/Data/private/tmp/remote/x": true,
	} {
		require.Equal(t, want, isUnder(mountsOf(t, h), path), path)
	}

	h.remote = func() ([]string, error) { return nil, errors.New("unknown") }
	require.Equal(t, kmodquery.ModuleFile{Path: local, Missing: unread}, h.File(t.Context(), kmodquery.Module{Name: probe, Path: local}))
}

func mountsOf(t *testing.T, h *mac) []string {
	t.Helper()
	points, err := h.remote()
	require.NoError(t, err)
	return points
}
