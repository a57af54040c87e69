package sqlite

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// readingRole is killed while it reads an image.
func readingRole(dir string) error {
	s, err := Open(context.Background(), dir, Options{})
	if err != nil {
		return err
	}
	s.SetReading(append(s.Reading(), "bomb"))
	return unix.Kill(unix.Getpid(), unix.SIGKILL)
}

func TestReadingSurvivesSIGKILL(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		require.EqualError(t, role("reading", dir).Run(), "signal: killed")
	}
	require.Equal(t, []string{"bomb", "bomb"}, openIn(t, dir, Options{}).Reading())
}
