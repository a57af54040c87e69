//go:build linux

package autostart

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
)

// Root may put anything in the place of a file. Each is an entry that says so, and the others
// are read.
func TestWhatIsNoFileIsAnEntry(t *testing.T) {
	files := kernel([]string{"loop"}, nil)
	for path, content := range map[string]string{
		"/etc/modules-load.d/loop.conf":      "-> loop.conf",
		"/etc/modules-load.d/dangling.conf":  "-> /nowhere",
		"/etc/modules-load.d/huge.conf":      "loop\n" + strings.Repeat("x", maxFile),
		"/etc/modules-load.d/binary.conf":    "\xff\xfe\x00loop\x00\x1b[2J\n",
		"/etc/modules-load.d/null.conf":      "-> /dev/null",
		"/etc/modules-load.d/up.conf":        "-> ../../../../../../../../etc/modules",
		"/etc/modules":                       "loop\n",
		"/dev/zero":                          "",
		"/etc/modules-load.d/folder.conf/x":  "",
		"/etc/modules-load.d/long name.conf": "loop " + strings.Repeat("y", maxText) + "\n",
	} {
		files[path] = content
	}
	root := newRoot(t, files)
	require.NoError(t, unix.Mkfifo(filepath.Join(root, "etc/modules-load.d/pipe.conf"), 0o600))
	require.NoError(t, os.Remove(filepath.Join(root, "dev/zero")))
	require.NoError(t, unix.Mkfifo(filepath.Join(root, "dev/zero"), 0o600)) // no device, so that this needs no root
	require.NoError(t, os.Symlink("/dev/zero", filepath.Join(root, "etc/modules-load.d/zero.conf")))
	got := map[string][]string{}
	for _, e := range entriesOf(t, root) {
		got[filepath.Base(e.File)] = append(got[filepath.Base(e.File)], kmodquery.Escape(e.Requested)+"|"+e.Reason+"|"+e.Missing.String())
		require.LessOrEqual(t, len(e.Text)+len(e.Name)+len(e.Requested), 3*maxText)
	}
	const unread = "line,text,action,name,effective"
	const statless = "file_uid,file_mode,file_mtime,"
	none := "|modprobe finds no module of this name or alias|"
	require.Equal(t, map[string][]string{
		"loop.conf":      {"|cannot read the file: too many levels of symbolic links|" + statless + unread},
		"dangling.conf":  {"|cannot read the file: it is a link to a file that does not exist|" + statless + unread},
		"huge.conf":      {"|cannot read the file: it is too long to be read whole|" + unread, "loop||", strings.Repeat("x", maxText) + none + "text,name,requested"},
		"binary.conf":    {`\xff\xfe` + none, "loop||", `\x1b[2J` + none},
		"modules":        {"loop||"},
		"folder.conf":    {"|cannot read the file: it is not a regular file|" + unread},
		"pipe.conf":      {"|cannot read the file: it is not a regular file|" + unread},
		"zero":           {"|cannot read the file: it is not a regular file|" + unread},
		"long name.conf": {"loop " + strings.Repeat("y", maxText-5) + none + "text,name,requested"},
	}, got)
}

// If a file of modprobe.d cannot be read whole, it may blacklist any module.
func TestEffectIsUnknownIfTheConfigurationIs(t *testing.T) {
	files := kernel([]string{"loop", "dummy"}, nil)
	files["/etc/modules-load.d/a.conf"] = "loop\ndummy\n"
	files["/etc/modprobe.d/a.conf"] = "blacklist dummy\n" + strings.Repeat("#", maxFile)
	entries := entriesOf(t, newRoot(t, files))
	require.Nil(t, entries[0].Effective)
	require.Equal(t, "cannot read /etc/modprobe.d/a.conf: it is too long to be read whole", entries[0].Reason)
	require.True(t, entries[0].Missing.Has("effective"))
	require.EqualValues(t, 0, *entries[1].Effective)

	files = kernel(nil, nil)
	files["/etc/modules-load.d/a.conf"] = "loop\n"
	delete(files, "/usr/lib/modules/"+release+"/modules.dep.bin")
	entries = entriesOf(t, newRoot(t, files))
	require.Nil(t, entries[0].Effective)
	require.Equal(t, "cannot read /usr/lib/modules/6.1.0-test/modules.dep.bin: no such file or directory", entries[0].Reason)
	require.Equal(t, kmodquery.Columns("effective,path"), entries[0].Missing)
}

// Patterns can make looking up modules slow. What was not looked up in time is unknown.
func TestWhatIsLookedUpLateIsUnknown(t *testing.T) {
	files := kernel([]string{"loop"}, nil)
	files["/etc/modprobe.d/a.conf"] = "alias " + strings.Repeat("*a", 2000) + "b loop\n"
	tree, err := New(newRoot(t, files), release).open()
	require.NoError(t, err)
	c := tree.readConfig()
	e := c.loadEntries(kmodquery.AutostartEntry{}, strings.Repeat("a", maxText-1), "")[0]
	require.EqualValues(t, 0, *e.Effective)
	c.deadline = time.Now().Add(-time.Second)
	e = c.loadEntries(kmodquery.AutostartEntry{}, "loop", "")[0]
	require.Nil(t, e.Effective)
	require.Equal(t, errLate.Error(), e.Reason)
	require.Equal(t, kmodquery.Columns("effective,path"), e.Missing)
}

// Any number of lines and files is read within bounds, and an entry says what was left out.
func TestFloodIsBounded(t *testing.T) {
	files := kernel([]string{"loop"}, nil)
	for name, line := range map[string]string{"modprobe.d": "softdep *a*b*c*d*e pre: loop no loop no loop\n", "modules-load.d": "a\n"} {
		files["/etc/"+name+"/a.conf"] = strings.Repeat(line, 2*maxLines)
	}
	entries := entriesOf(t, newRoot(t, files))
	require.LessOrEqual(t, len(entries), 2*maxLines+2)
	cut := 0
	for _, e := range entries {
		if e.Reason == errTooMany.Error() {
			cut++
		}
	}
	require.Equal(t, 2, cut)

	root := newRoot(t, nil)
	require.NoError(t, os.MkdirAll(filepath.Join(root, "etc/modules-load.d"), 0o755))
	for i := range maxFiles + 1 {
		name := filepath.Join(root, "etc/modules-load.d", strings.Repeat("x", i%100)+time.Duration(i).String()+".conf")
		require.NoError(t, os.WriteFile(name, []byte("loop\n"), 0o644))
	}
	entries = entriesOf(t, root)
	require.Equal(t, errTooMany.Error(), entries[0].Reason)
	require.Len(t, entries, 1+maxFiles)
}

// That modules.dep.bin cannot be compared is an entry: it may have been changed.
func TestModulesDepThatCannotBeComparedIsAnEntry(t *testing.T) {
	const folder = "/usr/lib/modules/" + release
	files := kernel([]string{"loop"}, nil)
	delete(files, folder+"/modules.dep")
	entries := entriesOf(t, newRoot(t, files))
	require.Equal(t, []string{`modules.dep :0  < "" ? |` + folder + `/modules.dep does not exist, so modules.dep.bin was not compared`}, allShown(entries))

	files = kernel([]string{"loop", "hid"}, nil)
	files[folder+"/modules.dep.bin"] = files[folder+"/modules.dep.bin"][:30]
	entries = entriesOf(t, newRoot(t, files))
	require.Equal(t, []string{`modules.dep :0  < "" ? |not compared with modules.dep: cannot read ` + folder + `/modules.dep.bin: it is not an index that kmod reads`}, allShown(entries))

	files = kernel(nil, nil)
	delete(files, folder+"/modules.dep")
	delete(files, folder+"/modules.dep.bin")
	require.Empty(t, entriesOf(t, newRoot(t, files)))
}

// The folders of units' drop-ins share the bound of the place.
func TestDropInsShareABound(t *testing.T) {
	files := kernel(nil, nil)
	big := "ExecStart=/sbin/modprobe a\n" + strings.Repeat("#", maxFile-100)
	for i := range 2 * maxPlace / maxFile {
		files[fmt.Sprintf("/etc/systemd/system/a%02d.service.d/x.conf", i)] = big
	}
	var read, cut int
	for _, e := range entriesOf(t, newRoot(t, files)) {
		if e.Text != "" {
			read++
		} else {
			require.Contains(t, e.Reason, "it is too long to be read whole")
			cut++
		}
	}
	require.LessOrEqual(t, read, maxPlace/maxFile+1)
	require.Positive(t, cut)
}

// udev drops rules that are longer than its buffer, and so does the table, in little time.
func TestLongRulesOfUdev(t *testing.T) {
	files := kernel(nil, nil)
	files["/etc/udev/rules.d/a.rules"] = strings.Repeat("x\\\n", maxRule) + "\n" + strings.Repeat(`RUN+="/bin/a",`, 2*maxRule/14) + "\n" + `RUN+="/bin/b"` + "\n"
	require.Equal(t, []string{
		fmt.Sprintf(`udev /etc/udev/rules.d/a.rules:%d RUN < "/bin/b" 1 |`, maxRule+3),
	}, allShown(entriesOf(t, newRoot(t, files))))
}

// depmod writes no pattern with a bracket that is not closed, which would be slow to match.
func TestPatternsThatAreNotClosedAreLeftOut(t *testing.T) {
	room := maxKeys
	x, err := parseIndex([]byte(encodeIndex(map[string]string{"a[bc]": "loop", "*[[[": "evil", "a]b[": "evil"})), &room)
	require.NoError(t, err)
	require.Equal(t, index{"a[bc]": {"loop"}}, x)
	require.Less(t, room, maxKeys)
}
