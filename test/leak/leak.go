package leak

import (
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// patience is how long goroutines and files may take to end after a test.
const patience = 5 * time.Second

// Main is the TestMain of a package. It runs the tests and then ends the process, with
// a failure if goroutines or open files remain. Each option in ignored names goroutines
// that may remain. A caller must state the reason for each.
func Main(m *testing.M, ignored ...goleak.Option) { os.Exit(Run(m, ignored...)) }

// Run is Main for a TestMain that has further work. It returns the exit status.
func Run(m interface{ Run() int }, ignored ...goleak.Option) int {
	before := openFiles()
	status := m.Run()
	if status != 0 {
		return status // a failed test may leave anything behind
	}
	if err := left(before, ignored...); err != nil {
		fmt.Fprintln(os.Stderr, "leak:", err)
		return 1
	}
	return 0
}

// checked are the running tests that have called Check.
var checked sync.Map

// Check fails a test that leaves goroutines or open files behind at its end. Call it
// before the test registers its own cleanups. No other test may run meanwhile. Of
// several calls in one test only the first has an effect.
func Check(t testing.TB) {
	t.Helper()
	if _, isChecked := checked.LoadOrStore(t, true); isChecked {
		return
	}
	before, running := openFiles(), goleak.IgnoreCurrent()
	t.Cleanup(func() {
		checked.Delete(t)
		if t.Failed() {
			return
		}
		if err := left(before, running); err != nil {
			t.Error(err)
		}
	})
}

// left returns an error that names goroutines and files that were not there before and
// do not end soon.
func left(before map[string]int, ignored ...goleak.Option) error {
	if err := goleak.Find(ignored...); err != nil {
		return err
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		opened := more(before, openFiles())
		if len(opened) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("files left open: %q", opened)
		}
	}
}
