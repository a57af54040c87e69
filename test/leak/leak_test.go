package leak

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { Main(m) }

type tests func()

func (run tests) Run() int { run(); return 0 }

func TestNothingLeft(t *testing.T) {
	require.Zero(t, Run(tests(func() {
		ended := make(chan struct{})
		go close(ended)
		file, err := os.Open(os.DevNull)
		require.NoError(t, err)
		go func() {
			<-ended
			file.Close()
		}()
	})))
}

func TestAGoroutineLeft(t *testing.T) {
	end := make(chan struct{})
	require.Equal(t, 1, Run(tests(func() { go func() { <-end }() })))
	close(end)
	require.Equal(t, 3, Run(failing(3)), "the failure of a test takes precedence")
}

type failing int

func (f failing) Run() int { return int(f) }

func TestAFileLeft(t *testing.T) {
	if _, err := os.Stat("/proc/self/fd"); err != nil {
		t.Skip("open files are listed in Linux's /proc only")
	}
	path := filepath.Join(t.TempDir(), "left")
	var file *os.File
	require.Equal(t, 1, Run(tests(func() {
		var err error
		file, err = os.Create(path)
		require.NoError(t, err)
	})))
	before := openFiles()
	second, err := os.Open(path)
	require.NoError(t, err)
	require.Equal(t, []string{path}, more(before, openFiles()))
	require.ErrorContains(t, left(before), path)
	require.NoError(t, second.Close())
	require.NoError(t, file.Close())
	require.NoError(t, left(before))
}

func TestCheck(t *testing.T) {
	Check(t)
	file, err := os.Open(os.DevNull)
	require.NoError(t, err)
	t.Cleanup(func() { file.Close() })
}
