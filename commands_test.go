package kmodquery

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// commands are the files that run programs, and what the arguments are. Nothing that the host
// chose is an argument of a program, unless it is the value of an option or an absolute
// path: a name that begins with a dash would be an option, and rpm executes the value of
// --eval. Where an argument is a path of the host, a test is named.
var commands = map[string]string{
	"darwin/es/pty.go":         "a list of events",
	"darwin/host/start.go":     "runs what its callers give",
	"darwin/loaded/run.go":     "codesign gets a path: TestFileOfARelativePathIsUnknown",
	"darwin/ulog/command.go":   "times and a predicate of its own",
	"extension/shell/pager.go": "the words of $PAGER, which the user of the shell sets",
	"linux/klog/journal.go":    "a cursor, as the value of an option",
	"linux/ondisk/rpm.go":      "a path: TestRPMDoesNotTreatPathsAsOptions",
}

// TestProgramsAreRunInKnownPlaces fails for a file that is not in commands.
func TestProgramsAreRunInKnownPlaces(t *testing.T) {
	found := map[string]bool{}
	for _, folder := range productFolders(t) {
		paths, err := filepath.Glob(folder + "/*.go")
		require.NoError(t, err)
		for _, path := range paths {
			if isTest, _ := filepath.Match("*_test.go", filepath.Base(path)); isTest {
				continue
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			require.NoError(t, err)
			ast.Inspect(file, func(n ast.Node) bool {
				if call, ok := n.(*ast.SelectorExpr); ok && isCommand(call) {
					found[path] = true
				}
				return true
			})
		}
	}
	for path := range found {
		require.Contains(t, commands, path, "add the file to commands, with what its arguments are")
	}
	require.Len(t, found, len(commands), "commands has a file that runs no program: %v", found)
}

// isCommand reports whether an expression is a function that runs a program.
func isCommand(call *ast.SelectorExpr) bool {
	of, ok := call.X.(*ast.Ident)
	if !ok {
		return false
	}
	switch of.Name + "." + call.Sel.Name {
	case "exec.Command", "exec.CommandContext", "host.Command", "os.StartProcess", "syscall.ForkExec", "syscall.StartProcess",
		"syscall.Exec", "unix.Exec":
		return true
	}
	return false
}
