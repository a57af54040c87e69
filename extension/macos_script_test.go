package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/collectors"
	"github.com/kmodquery/kmodquery/darwin/es"
	"github.com/kmodquery/kmodquery/tables/sqlite"
	"github.com/kmodquery/kmodquery/test/standin"
)

// TestMain lets the test binary act, by the name under which it is started, as the
// extension on a Mac whose programs are in the folder $MACOS, or as one of these
// programs.
func TestMain(m *testing.M) {
	standin.Main()
	testscript.Main(leakChecked{m}, map[string]func(){
		"kmodquery.ext": func() {
			mac := aMac(os.Getenv("MACOS"))
			if alive := os.Getenv("ESLOGGER_ALIVE"); alive != "" {
				setAlive(mac, alive)
			}
			os.Exit(run(context.Background(), mac, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
		},
	})
}

// setAlive sets how long eslogger must have run before it counts as watching. A script
// about an eslogger that cannot watch sets a long time, because a busy machine may start
// the stand-in late.
func setAlive(mac *platform, text string) {
	alive, err := time.ParseDuration(text)
	if err != nil {
		panic(err)
	}
	openSource := mac.openSource
	mac.openSource = func(name string, c *config, store *sqlite.Store) collectors.Source {
		if name != kmodquery.SourceEndpointSecurity {
			return openSource(name, c, store)
		}
		return es.New(es.Options{
			Eslogger: filepath.Join(os.Getenv("MACOS"), "eslogger"),
			Boot:     bootOfAMac,
			Alive:    alive,
		})
	}
}

// standIns are the stand-ins for the programs of macOS. A script has a program if its
// folder macos has the file that directs the program.
var standIns = map[string]struct {
	directedBy string
	install    func(path string) error
}{
	"eslogger": {"eslogger.play", standin.InstallAt},
	"log":      {"stream", installScript},
	"kmutil":   {"showloaded", installScript},
	"csrutil":  {"csrutil.status", installScript},
	"codesign": {"codesign", installScript},
}

// installScript installs a stand-in from darwin/testdata/standins. Files in the folder
// $KMODQUERY_STANDINS direct it.
func installScript(path string) error {
	script, err := filepath.Abs(filepath.Join("../darwin/testdata/standins", filepath.Base(path)))
	if err != nil {
		return err
	}
	return os.Symlink(script, path)
}

// aKextOfTheBoot is the list that kmutil prints if the script has none.
const aKextOfTheBoot = "    1    0 0xffffff8000001000 0x5000     0x5000     com.apple.driver.Boot (1.0) 0D1B2C3A-0000-0000-0000-000000000000 <>\n"

// withoutFile writes a file unless it exists.
func withoutFile(path, text string) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	return os.WriteFile(path, []byte(text), 0o600)
}

// TestMacOSScripts runs the whole command as on macOS. Besides testscript's commands
// the scripts have these:
//
//	began PROGRAM COUNT  fail unless the program was started COUNT times
//	gone PROGRAM         fail if the program still runs
//
// A script about one source sets KMODQUERY_SOURCES to run no other one. The events
// have fixed dates, so nothing expires.
func TestMacOSScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                "testdata/darwin",
		RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			programs := filepath.Join(env.WorkDir, "macos")
			env.Setenv("MACOS", programs)
			env.Setenv("KMODQUERY_STANDINS", programs)
			env.Setenv("HOME", env.WorkDir)
			state := filepath.Join(env.WorkDir, "state")
			if err := os.Mkdir(state, 0o700); err != nil {
				return err
			}
			env.Setenv("KMODQUERY_STATE_DIR", state)
			env.Setenv("KMODQUERY_RETENTION_AGE", "0")
			env.Setenv("KMODQUERY_FORMAT", "csv")
			env.Setenv("ESLOGGER_ALIVE", "50ms")
			// A Mac always has loaded extensions.
			if err := withoutFile(filepath.Join(programs, "showloaded"), aKextOfTheBoot); err != nil {
				return err
			}
			for name, standIn := range standIns {
				if _, err := os.Stat(filepath.Join(programs, standIn.directedBy)); err != nil {
					continue
				}
				if err := standIn.install(filepath.Join(programs, name)); err != nil {
					return err
				}
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"began": scriptCommand(func(ts *testscript.TestScript, args []string) error {
				if len(args) != 2 {
					return errors.New("usage: began PROGRAM COUNT")
				}
				runs := standin.Runs(filepath.Join(ts.Getenv("MACOS"), args[0]))
				if strconv.Itoa(runs) != args[1] {
					return fmt.Errorf("%s was started %d times", args[0], runs)
				}
				return nil
			}),
			"gone": scriptCommand(func(ts *testscript.TestScript, args []string) error {
				if len(args) != 1 {
					return errors.New("usage: gone PROGRAM")
				}
				commands, err := runningCommands()
				if err != nil {
					return err
				}
				program := filepath.Join(ts.Getenv("MACOS"), args[0])
				if slices.ContainsFunc(commands, func(command string) bool { return strings.HasPrefix(command+" ", program+" ") }) {
					return fmt.Errorf("%s still runs", args[0])
				}
				return nil
			}),
		},
	})
}

// runningCommands returns the command lines of all processes.
func runningCommands() ([]string, error) {
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	if len(processes) == 0 { // as on a Mac
		text, err := exec.Command("ps", "-axo", "command=").Output()
		return strings.Split(string(text), "\n"), err
	}
	var commands []string
	for _, process := range processes {
		text, _ := os.ReadFile(process) // the process may have ended
		commands = append(commands, strings.ReplaceAll(string(text), "\x00", " "))
	}
	return commands, nil
}

// scriptCommand returns a script command that runs a function.
func scriptCommand(run func(ts *testscript.TestScript, args []string) error) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, expectsFailure bool, args []string) {
		switch err := run(ts, args); {
		case err == nil && expectsFailure:
			ts.Fatalf("unexpected success")
		case err != nil && !expectsFailure:
			ts.Fatalf("%v", err)
		}
	}
}
