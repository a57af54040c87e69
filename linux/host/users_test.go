//go:build linux

package host

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestUsersAreThoseOfPasswd(t *testing.T) {
	long := strings.Repeat("x", 70_000)
	for content, want := range map[string]string{
		"root:x:0:0::/root:/bin/sh\nada:x:7:7::/:/bin/sh\n": "ada",
		"ada:x:7:7::/:/bin/sh\ntoor:x:7:0::/root:/bin/sh\n": "ada",
		"#ada:x:7:7::/:/bin/sh\n":                           "",
		"ada:x:7\n\n::7:7:\nada:x:-7:7::/:\nb:x:7x:7::/:\n": "",
		"a\x1bb:x:7:7::/:\n":                                "a\x1bb",
		"ada:x:7:7::/:/bin/sh\n" + long:                     "ada",
		strings.Repeat("y", maxPasswd) + "\nada:x:7:7::/:":  "",
		"": "",
	} {
		path := filepath.Join(t.TempDir(), "passwd")
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		file, err := os.Open(path)
		require.NoError(t, err)
		require.Equal(t, want, usersOf(file)(7), "%.40q", content)
		require.NoError(t, file.Close())
	}
	require.Empty(t, Users()(1<<40))
}
