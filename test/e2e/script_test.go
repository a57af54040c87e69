//go:build linux

package e2e

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/test/race"
	"github.com/kmodquery/kmodquery/test/suite"
	"github.com/kmodquery/kmodquery/test/vm"
	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// The scripts run the built extension, kmodquery.ext on their PATH, with the state
// folder $WORK/state, and have these commands besides testscript's own. With "!" before
// it a command must fail; its error is then on stderr.
//
//	osquery …           an osquery without extensions, at the socket $SOCKET (script_osquery_test.go)
//	schedule PACK       give a pack file to osquery
//	advance DURATION    run osquery's schedule for this duration
//	shipped QUERY COL…  print the results log of one query of the packs: action and columns
//	seed COUNT          put events into the state folder (script_store_test.go)
//	sqlite FILE SQL     change a database
//	recorded            wait until a process records into the state folder
//	mute SOCKET         accept connections at a socket and never answer
//	contains FILE TEXT  wait until the file contains the text
//	terminate           send SIGTERM to the commands in the background
//	load WAY MODULE     load a module by file or from memory (script_module_test.go)
//	unload MODULE       remove it
//
// The condition [all] holds in make test-all and make test-long, and [once] in the VM of one
// kernel, the oldest.

// TestScripts runs the scripts for any host. Under the race detector it also builds the
// extension with it.
func TestScripts(t *testing.T) {
	if race.Enabled {
		reportRaces(t)
	} else {
		t.Parallel() // guests need not wait for the scripts
	}
	testscript.Run(t, scripts("testdata/host", buildExtension(t, vm.Arch(runtime.GOARCH), race.BuildFlags()...)))
}

// reportRaces makes every process that detects a race exit, and fails the test at its
// end.
func reportRaces(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("GORACE", "halt_on_error=1 log_path="+filepath.Join(dir, "race"))
	t.Cleanup(func() {
		reports, err := filepath.Glob(filepath.Join(dir, "race.*"))
		require.NoError(t, err)
		for _, report := range reports {
			text, err := os.ReadFile(report)
			require.NoError(t, err)
			t.Errorf("%s", text)
		}
	})
}

// TestGuestScripts runs the scripts for a VM.
func TestGuestScripts(t *testing.T) {
	guest.Only(t)
	testscript.RunT(inTurn{t}, scripts("/root/testdata/guest", guestExtension))
}

// inTurn runs scripts one after the other, because they share a kernel and each sees
// the loads of all.
type inTurn struct{ *testing.T }

func (inTurn) Parallel() {}

func (t inTurn) Run(name string, run func(testscript.T)) {
	t.T.Run(name, func(t *testing.T) { run(inTurn{t}) })
}

func (inTurn) Verbose() bool { return testing.Verbose() }

func scripts(dir, extension string) testscript.Params {
	return testscript.Params{
		Dir:                dir,
		RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			o := newOsquery(env.WorkDir, extension)
			env.Values[osqueryKey{}] = o
			env.Defer(func() { o.close() })
			env.Setenv("PATH", filepath.Dir(extension)+string(os.PathListSeparator)+os.Getenv("PATH"))
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("SOCKET", o.options.Socket)
			env.Setenv("KMODQUERY_STATE_DIR", filepath.Join(env.WorkDir, "state"))
			env.Setenv("KMODQUERY_PIN_DIR", os.Getenv("KMODQUERY_PIN_DIR"))
			env.Setenv("GORACE", os.Getenv("GORACE"))
			return nil
		},
		Condition: func(name string) (bool, error) {
			switch name {
			case "all":
				return suite.All(), nil
			case "once":
				return guest.Kernel() == vm.Oldest().String(), nil
			}
			return false, fmt.Errorf("unknown condition %s", name)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"osquery":   command(osqueryCommand),
			"schedule":  command(schedule),
			"advance":   command(advance),
			"shipped":   command(shipped),
			"seed":      command(seed),
			"sqlite":    command(changeDatabase),
			"recorded":  command(recorded),
			"contains":  command(contains),
			"mute":      command(mute),
			"terminate": command(terminate),
			"load":      command(load),
			"unload":    command(unload),
		},
	}
}

// command makes a script command from a function whose error the script may expect.
func command(run func(ts *testscript.TestScript, args []string) error) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, expectsFailure bool, args []string) {
		ts.Stdout() // clears the output of the previous command
		err := run(ts, args)
		switch {
		case err == nil && expectsFailure:
			ts.Fatalf("the command did not fail")
		case err != nil && !expectsFailure:
			ts.Fatalf("%v", err)
		case err != nil:
			fmt.Fprintln(ts.Stderr(), err)
		}
	}
}

// contains waits for the output of a command in the background.
func contains(ts *testscript.TestScript, args []string) error {
	if err := checkArgs(args, 2, "contains FILE TEXT"); err != nil {
		return err
	}
	for deadline := time.Now().Add(waitForTables); ; time.Sleep(20 * time.Millisecond) {
		content, err := os.ReadFile(ts.MkAbs(args[0]))
		if err == nil && strings.Contains(string(content), args[1]) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s has %q: %w", args[0], content, cmp.Or(err, errors.New("the text is missing")))
		}
	}
}

// terminate sends SIGTERM, which testscript's kill does not support.
func terminate(ts *testscript.TestScript, _ []string) error {
	for _, cmd := range ts.BackgroundCmds() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			return err
		}
	}
	return nil
}

func checkArgs(args []string, count int, usage string) error {
	if len(args) != count {
		return fmt.Errorf("usage: %s", usage)
	}
	return nil
}
