package leak

import (
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// patience is how long what a test has let go of may take to end.
const patience = 5 * time.Second

// Main is the TestMain of a package: it runs the tests and then ends the
// process, with a failure when something is left behind. What is to be ignored
// needs a reason where it is named.
func Main(m *testing.M, ignored ...goleak.Option) { os.Exit(Run(m, ignored...)) }

// Run is Main for a TestMain that has more to do. It returns the exit status.
func Run(m interface{ Run() int }, ignored ...goleak.Option) int {
	before := openFiles()
	status := m.Run()
	if status != 0 {
		return status // who fails may leave what it likes
	}
	if err := left(before, ignored...); err != nil {
		fmt.Fprintln(os.Stderr, "leak:", err)
		return 1
	}
	return 0
}

// checked are the tests that Check was called for and that have not ended.
var checked sync.Map

// Check fails a test that leaves something behind at its end. It must come
// before what the test cleans up by itself, and no other test may run meanwhile.
// Of several calls in one test the first counts.
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

// left says what is there that was not before, and does not end soon.
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
