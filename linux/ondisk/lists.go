//go:build linux

package ondisk

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kmodquery/kmodquery/linux/host"
)

// maxLine bounds a line of an index or a package's list, in bytes. A longer line is an
// error.
const maxLine = 64 << 10

func newLines(r io.Reader) *bufio.Scanner {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	return lines
}

// A packageLists is the database of a package manager that keeps a list of each package's
// files.
type packageLists struct {
	root   string
	folder string // its time changes when a package is installed or removed
	// read returns the packages of the modules in the lists, by path.
	read   func(ctx context.Context, root string) (map[string]string, error)
	owners cache
}

func (p *packageLists) owner(ctx context.Context, path string) (string, error) {
	owners, err := p.owners.get(filepath.Join(p.root, p.folder), func() (map[string]string, error) { return p.read(ctx, p.root) })
	if owners[path] == "" && owners[isCut] != "" {
		err = errCut
	}
	if err != nil {
		return "", fmt.Errorf("read the packages in %s: %w", p.folder, err)
	}
	return owners[path], nil
}

// readLists reads the lists that match a pattern. For each list, begin returns a function
// that returns the path and the package of a line that names a module's file. The package is
// "" if it is unknown.
func readLists(ctx context.Context, root, pattern string, begin func(list string) func(line string) (path, name string)) (map[string]string, error) {
	lists, err := filepath.Glob(filepath.Join(root, pattern))
	if err != nil {
		return nil, err
	}
	owners := newIndex()
	for _, list := range lists {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		ownerOf := begin(list)
		err := eachModule(list, func(line string) {
			path, name := ownerOf(line)
			if name != "" && !owners.add(inUsr(root, path), name) {
				owners.values[isCut] = name
			}
		})
		if err != nil && !os.IsNotExist(err) { // the package may just have been removed
			return nil, err
		}
	}
	return owners.values, nil
}

// isCut is a path that no package has. A value for it says that others were left out.
const isCut = ""

var errCut = errors.New("they have too many modules")

// configNames are in the paths of the files that have modules loaded.
var configNames = []string{
	"etc/modules", "/modules-load.d/", "/modprobe.d/", "/depmod.d/", "/sysctl.d/", "etc/sysctl.conf", "/udev/rules.d/",
	"/initramfs-tools/", "/dracut.conf", "/dkms.conf", "/dkms/framework.conf", "/systemd/system", "etc/default/grub", "etc/init.d/", "etc/cron", "etc/rc.",
}

// isConfig reports whether a line of a package's list names a file that may have modules
// loaded.
func isConfig(line string) bool {
	return slices.ContainsFunc(configNames, func(name string) bool { return strings.Contains(line, name) })
}

// eachModule calls visit with each line of a package's list that names a module's file, or a
// file that has modules loaded.
func eachModule(list string, visit func(path string)) error {
	file, err := host.OpenRegular(list)
	if err != nil {
		return err
	}
	defer file.Close()
	lines := newLines(file)
	for lines.Scan() {
		line := lines.Text()
		if isConfig(line) {
			visit(line)
		} else if strings.Contains(line, ".ko") {
			if _, isModule := fileName(line); isModule {
				visit(line)
			}
		}
	}
	return lines.Err()
}
