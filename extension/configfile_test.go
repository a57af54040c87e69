package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery/internal/trusted"
)

// configFile writes a configuration file that is accepted, whatever the umask.
func configFile(t *testing.T, content string) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o700))
	path := filepath.Join(dir, "kmodquery.conf")
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

func TestConfigFileThatOnlyItsOwnerCanWriteIsRead(t *testing.T) {
	path := configFile(t, "verbose\n")
	for _, mode := range []os.FileMode{0o400, 0o600, 0o640, 0o644} {
		require.NoError(t, os.Chmod(path, mode))
		c, err := parse(hostPlatform(), []string{"query", "--config", path})
		require.NoError(t, err)
		require.True(t, c.verbose)
	}
	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Chmod(filepath.Dir(link), 0o777))
	require.NoError(t, os.Symlink(path, link))
	c, err := parse(hostPlatform(), []string{"query", "--config", link})
	require.NoError(t, err, "the target of a link is checked")
	require.True(t, c.verbose)

	t.Chdir(filepath.Dir(path))
	c, err = parse(hostPlatform(), []string{"query", "--config", "kmodquery.conf"})
	require.NoError(t, err)
	require.True(t, c.verbose)

	c, err = parse(hostPlatform(), []string{"query", "--config", ""})
	require.NoError(t, err)
	require.False(t, c.verbose)
}

func TestConfigFileThatOthersCanWriteIsRefused(t *testing.T) {
	refuse := func(t *testing.T, path, want string) {
		t.Helper()
		c, err := parse(hostPlatform(), []string{"query", "--config", path})
		require.EqualError(t, err, want)
		require.Nil(t, c)
	}
	for mode, octal := range map[os.FileMode]string{0o620: "0620", 0o602: "0602", 0o666: "0666"} {
		path := configFile(t, "verbose\n")
		require.NoError(t, os.Chmod(path, mode))
		want := "read configuration: " + path + " can be written by others (mode " + octal + "), who could change it; run chmod go-w " + path
		refuse(t, path, want)

		link := filepath.Join(t.TempDir(), "link")
		require.NoError(t, os.Symlink(path, link))
		refuse(t, link, want)
	}
	for mode, octal := range map[os.FileMode]string{0o720: "0720", 0o707: "0707", 0o777 | os.ModeSticky: "0777"} {
		path := configFile(t, "verbose\n")
		dir := filepath.Dir(path)
		require.NoError(t, os.Chmod(dir, mode))
		refuse(t, path, "read configuration: "+dir+" can be written by others (mode "+octal+"), who could change it; run chmod go-w "+dir)
	}
	t.Run("folder above", func(t *testing.T) {
		above := filepath.Dir(configFile(t, ""))
		path := filepath.Join(above, "below", "kmodquery.conf")
		require.NoError(t, os.Mkdir(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte("verbose\n"), 0o600))
		require.NoError(t, os.Chmod(above, 0o777|os.ModeSticky))
		_, err := parse(hostPlatform(), []string{"query", "--config", path})
		require.NoError(t, err, "other users cannot replace a folder in a sticky folder")
		require.NoError(t, os.Chmod(above, 0o777))
		refuse(t, path, "read configuration: "+above+" can be written by others (mode 0777), who could change it; run chmod go-w "+above)
	})
	t.Run("no file", func(t *testing.T) {
		pipe := filepath.Join(filepath.Dir(configFile(t, "")), "pipe")
		require.NoError(t, unix.Mkfifo(pipe, 0o600))
		for _, path := range []string{pipe, filepath.Dir(pipe)} {
			refuse(t, path, "read configuration: "+path+" is not a regular file; choose another one")
		}
	})
	t.Run("foreign", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("only root can give files away")
		}
		path := configFile(t, "verbose\n")
		require.NoError(t, os.Chown(path, 1234, 0))
		refuse(t, path, "read configuration: "+path+" belongs to user 1234, who could change it; run chown root "+path)
		require.NoError(t, os.Chown(path, 0, 0))
		dir := filepath.Dir(path)
		require.NoError(t, os.Chown(dir, 1234, 0))
		refuse(t, path, "read configuration: "+dir+" belongs to user 1234, who could change it; run chown root "+dir)
	})
}

// A file that replaces the configuration file after the check is not read.
func TestConfigFileIsTheOneThatWasChecked(t *testing.T) {
	path := configFile(t, "verbose\n")
	file, err := trusted.Open(path)
	require.NoError(t, err)
	defer file.Close()
	other := configFile(t, "colour blue\n")
	require.NoError(t, os.Rename(other, path))
	content, err := io.ReadAll(file)
	require.NoError(t, err)
	require.Equal(t, "verbose\n", string(content))
}

func TestConfigFileThatIsTooLong(t *testing.T) {
	longest := "#" + strings.Repeat("x", maxConfigFile-len("#\nverbose")) + "\nverbose"
	c, err := parse(hostPlatform(), []string{"query", "--config", configFile(t, longest)})
	require.NoError(t, err)
	require.True(t, c.verbose)

	path := configFile(t, longest+"\n")
	_, err = parse(hostPlatform(), []string{"query", "--config", path})
	require.EqualError(t, err, "read configuration: "+path+" has more than 65536 bytes; choose another one with --config")
}
