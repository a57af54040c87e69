package sqlite

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func FuzzLockState(f *testing.F) {
	f.Add([]byte(`{"device":1,"inode":2,"schema":3,"trusted":4}`))
	f.Add([]byte(`{"schema":-1}`))
	f.Add([]byte("\x00\x00"))
	f.Fuzz(func(t *testing.T, text []byte) {
		m := parseLockState(text)
		require.GreaterOrEqual(t, m.Schema, 0)
		path := filepath.Join(t.TempDir(), lockName)
		file, err := os.Create(path)
		require.NoError(t, err)
		defer file.Close()
		require.NoError(t, writeLockState(file, m))
		require.Equal(t, m, readLockState(file))
	})
}
