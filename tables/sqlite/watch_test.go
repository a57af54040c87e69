package sqlite

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestWatchIsRemembered(t *testing.T) {
	dir := t.TempDir()
	s := openIn(t, dir, Options{})
	require.Zero(t, s.Watched(), "nobody has watched yet")
	at := time.Unix(1700000000, 0)
	s.KeepWatch(at)
	reader := openIn(t, dir, Options{})
	require.Zero(t, reader.Watched())
	reader.KeepWatch(time.Now())
	require.NoError(t, s.Close())
	s = openIn(t, dir, Options{})
	require.True(t, s.Watched().Equal(at))
}
