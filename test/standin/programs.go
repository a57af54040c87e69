package standin

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// programs are the stand-ins by name.
var programs = map[string]func(*play) error{
	"eslogger": eslogger,
}

// Main runs the stand-in under whose name this process was started and exits. It
// returns if there is none. A TestMain calls it first.
func Main() {
	run := programs[filepath.Base(os.Args[0])]
	if run == nil {
		return
	}
	p, err := readPlay(os.Args[0])
	if err == nil {
		err = run(p)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Install installs a program in a folder and returns its path. [Direct] writes its
// play.
func Install(t testing.TB, dir, program string) string {
	t.Helper()
	path := filepath.Join(dir, program)
	if err := InstallAt(path); err != nil {
		t.Fatal(err)
	}
	return path
}

// InstallAt installs at a path the program of the path's last element.
func InstallAt(path string) error {
	if programs[filepath.Base(path)] == nil {
		return fmt.Errorf("there is no stand-in for %s", filepath.Base(path))
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return os.Symlink(self, path)
}

// Direct writes the play of an installed program.
func Direct(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+playSuffix, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Runs returns how often an installed program was started.
func Runs(path string) int {
	starts, _ := os.ReadFile(path + runsSuffix) // none yet
	return len(starts)
}
