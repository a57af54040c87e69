//go:build linux

package ondisk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kmodquery/kmodquery/internal/cmdout"
)

const (
	// rpmTime bounds one query of rpm(8), which may wait for a lock.
	rpmTime = 10 * time.Second
	// maxRPMOutput bounds the output of rpm that is kept, in bytes.
	maxRPMOutput = 64 << 10
)

// rpmDatabases are the folders in which distributions keep rpm's database, newest
// distributions first.
var rpmDatabases = []string{"/usr/lib/sysimage/rpm", "/usr/share/rpm", "/var/lib/rpm"}

// An rpm runs rpm(8), because the database of rpm has several formats.
type rpm struct {
	root    string
	program string

	mu      sync.Mutex
	changed time.Time
	owners  map[string]string
}

func newRPM(root string) *rpm { return &rpm{root: root, program: "/usr/bin/rpm"} }

var errNotAbsolute = errors.New("the path is not absolute")

// owner accepts absolute paths only, because an attacker may choose the path: rpm takes a
// path that begins with a dash for an option (--eval executes code), and expands macros in
// a relative path.
func (r *rpm) owner(ctx context.Context, path string) (string, error) {
	folder, changed := r.database()
	if folder == "" {
		return "", nil
	}
	if _, err := os.Stat(r.program); os.IsNotExist(err) {
		return "", nil
	}
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("ask rpm for the owner of %q: %w", path, errNotAbsolute)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.owners == nil || !r.changed.Equal(changed) || len(r.owners) >= maxIndex {
		r.owners, r.changed = map[string]string{}, changed
	}
	if owner, ok := r.owners[path]; ok {
		return owner, nil
	}
	owner, err := r.ask(ctx, folder, path)
	if err != nil {
		return "", fmt.Errorf("ask rpm for the owner of %s: %w", path, err)
	}
	r.owners[path] = owner
	return owner, nil
}

// database returns the folder of rpm's database and when the database last changed. The
// folder is "" if the host has no such database.
func (r *rpm) database() (folder string, changed time.Time) {
	for _, folder := range rpmDatabases {
		for _, file := range []string{"rpmdb.sqlite", "Packages.db", "Packages"} {
			if info, err := os.Stat(filepath.Join(r.root, folder, file)); err == nil {
				// SQLite writes to its log first.
				if wal, err := os.Stat(filepath.Join(r.root, folder, file+"-wal")); err == nil && wal.ModTime().After(info.ModTime()) {
					info = wal
				}
				return folder, info.ModTime()
			}
		}
	}
	return "", time.Time{}
}

// ask runs rpm to find the path in the file lists of all packages. rpm does not open the
// file.
func (r *rpm) ask(ctx context.Context, folder, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, rpmTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, r.program, "--dbpath", filepath.Join(r.root, folder), "--query", "--whatprovides",
		"--queryformat", "%{NAME}-%{VERSION}-%{RELEASE}.%{ARCH}\n", "--", path)
	cmd.Env = []string{"LC_ALL=C", "PATH=/usr/bin:/bin"}
	out, stderr := cmdout.NewHead(maxRPMOutput, nil), cmdout.NewHead(maxRPMOutput, nil)
	cmd.Stdout, cmd.Stderr = out, stderr
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	answer := strings.TrimSpace(out.String())
	var exit *exec.ExitError
	switch {
	case err == nil:
		owner, _, _ := strings.Cut(answer, "\n")
		return owner, nil
	case errors.As(err, &exit) && ctx.Err() == nil && isUnowned(path, answer+stderr.String()):
		return "", nil
	default:
		line, _, _ := strings.Cut(strings.TrimSpace(stderr.String()), "\n")
		return "", fmt.Errorf("%w: %s", err, line)
	}
}

// isUnowned reports whether rpm's output says that no package has the file, and nothing
// else: rpm says so too after it failed to open its database.
func isUnowned(path, answer string) bool {
	return slices.Contains([]string{
		"no package provides " + path,
		"file " + path + " is not owned by any package",
		"error: file " + path + ": No such file or directory",
	}, strings.TrimSpace(answer))
}
