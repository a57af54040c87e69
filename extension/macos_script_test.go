package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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

// TestMain makes of the test binary, by the name under which it is started, the
// extension on a Mac whose programs lie in the folder $MACOS, or one of these.
func TestMain(m *testing.M) {
	standin.Main()
	testscript.Main(leakChecked{m}, map[string]func(){
		"kmodquery.ext": func() {
			mac := aMac(os.Getenv("MACOS"))
			if os.Getenv("MACOS_IS_SLOW") != "" {
				beSlow(mac)
			}
			os.Exit(run(context.Background(), mac, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
		},
	})
}

// beSlow gives an eslogger that cannot watch much time to say so, as a stand-in needs
// where the processors have much else to do.
func beSlow(mac *platform) {
	openSource := mac.openSource
	mac.openSource = func(name string, c *config, store *sqlite.Store) collectors.Source {
		if name != kmodquery.SourceEndpointSecurity {
			return openSource(name, c, store)
		}
		return es.New(es.Options{
			Eslogger: filepath.Join(os.Getenv("MACOS"), "eslogger"),
			Boot:     bootOfAMac,
			Alive:    15 * time.Second,
		})
	}
}

// standIns put a stand-in for a program to a path. A script has those programs
// whose play, or whatever else tells them what to do, it has a file of: of the
// second name, in its folder macos.
var standIns = map[string]struct {
	toldBy  string
	install func(path string) error
}{
	"eslogger": {"eslogger.play", standin.InstallAt},
	"log":      {"stream", installScript},
	"kmutil":   {"showloaded", installScript},
	"kextstat": {"kextstat", installScript},
	"codesign": {"codesign", installScript},
}

// installScript takes the stand-in in darwin/testdata/standins, which reads what to
// do in $KMODQUERY_STANDINS.
func installScript(path string) error {
	script, err := filepath.Abs(filepath.Join("../darwin/testdata/standins", filepath.Base(path)))
	if err != nil {
		return err
	}
	return os.Symlink(script, path)
}

// aKextOfTheBoot is what kmutil lists where a script does not say.
const aKextOfTheBoot = "    1    0 0xffffff8000001000 0x5000     0x5000     com.apple.driver.Boot (1.0) 0D1B2C3A-0000-0000-0000-000000000000 <>\n"

// withoutFile writes a file that is not there.
func withoutFile(path, text string) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	return os.WriteFile(path, []byte(text), 0o600)
}

// TestMacOSScripts runs the whole command as on macOS. Beside testscript's own
// the scripts know these commands:
//
//	began PROGRAM COUNT  fail unless a program was started so often
//	gone PROGRAM         fail if it still runs
//
// Only the sources that a script is about should run, so each names them
// (KMODQUERY_SOURCES). Events are of fixed days, so nothing expires.
func TestMacOSScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                "testdata/darwin",
		RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			programs := filepath.Join(env.WorkDir, "macos")
			env.Setenv("MACOS", programs)
			env.Setenv("KMODQUERY_STANDINS", programs)
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("KMODQUERY_STATE_DIR", filepath.Join(env.WorkDir, "state"))
			env.Setenv("KMODQUERY_RETENTION_AGE", "0")
			env.Setenv("KMODQUERY_FORMAT", "csv")
			// A Mac always has something loaded, and no boot collection is told of.
			if err := withoutFile(filepath.Join(programs, "showloaded"), aKextOfTheBoot); err != nil {
				return err
			}
			for name, standIn := range standIns {
				if _, err := os.Stat(filepath.Join(programs, standIn.toldBy)); err != nil {
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
				processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
				if err != nil {
					return err
				}
				if len(processes) == 0 {
					return errors.New("there is no /proc to look for processes in")
				}
				for _, process := range processes {
					text, _ := os.ReadFile(process) // it may have ended
					if strings.HasPrefix(string(text), filepath.Join(ts.Getenv("MACOS"), args[0])+"\x00") {
						return fmt.Errorf("%s still runs", args[0])
					}
				}
				return nil
			}),
		},
	})
}

// scriptCommand makes a script's command of a function.
func scriptCommand(run func(ts *testscript.TestScript, args []string) error) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, expectsFailure bool, args []string) {
		switch err := run(ts, args); {
		case err == nil && expectsFailure:
			ts.Fatalf("it did not fail")
		case err != nil && !expectsFailure:
			ts.Fatalf("%v", err)
		}
	}
}
