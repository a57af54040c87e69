//go:build linux

package sqlite

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"

	"github.com/kmodquery/kmodquery/test/leak"
	"github.com/kmodquery/kmodquery/test/memdir"
)

// roleVariable names the role in which the test binary runs in a process of its own.
const roleVariable = "KMODQUERY_SQLITE_TEST_ROLE"

func TestMain(m *testing.M) {
	var err error
	switch os.Getenv(roleVariable) {
	case "":
		memdir.Use()
		leak.Main(m) // does not return
	case "faults":
		err = faultsRole(os.Args[1])
	case "overwrite":
		err = overwriteRole(os.Args[1])
	case "reading":
		err = readingRole(os.Args[1])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// role returns a command that runs the test binary in a role.
func role(name string, args ...string) *exec.Cmd {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	command := exec.Command(self, args...)
	command.Env = append(os.Environ(), roleVariable+"="+name)
	command.Stderr = os.Stderr
	return command
}

// writerOf returns a command that overwrites a file with its standard input.
func writerOf(path string) *exec.Cmd { return role("overwrite", path) }

func overwriteRole(path string) error {
	content, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if _, err := file.WriteAt(content, 0); err != nil {
		return err
	}
	return file.Close()
}
