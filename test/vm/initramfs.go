//go:build linux

package vm

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// writeInitramfs packs the guest's files into a file of that name. It puts the disk at
// the path Options.Ext4.
func (m *Machine) writeInitramfs(name string, image *Image, p platform, disk string) error {
	t := newTree()
	if err := addTools(t, image.tools, p); err != nil {
		return err
	}
	if err := addModules(t, image, append([]string{"dummy"}, m.Modules...)); err != nil {
		return err
	}
	for guestPath, hostPath := range m.Files {
		if err := t.copy(guestPath, hostPath); err != nil {
			return err
		}
	}
	if m.Ext4 != "" {
		t.file(m.Ext4, disk)
	}
	t.file("/init", m.Init)
	config, err := m.config(p)
	if err != nil {
		return err
	}
	t.data(guest.ConfigPath, config)
	t.data("/etc/passwd", []byte("root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"))
	t.data("/etc/group", []byte("root:x:0:\nnogroup:x:65534:\n"))

	file, err := os.Create(name)
	if err != nil {
		return fmt.Errorf("make the initramfs: %w", err)
	}
	return errors.Join(t.pack(file), file.Close())
}

// config returns the content of the file guest.ConfigPath.
func (m *Machine) config(p platform) ([]byte, error) {
	rows, cols := m.terminalSize()
	config, err := json.Marshal(guest.Config{
		Kernel:      m.Kernel.String(),
		Runs:        append([]guest.Run{{Args: m.Args, Env: m.Env}}, m.Then...),
		Results:     p.results,
		Console:     p.console,
		Installed:   m.Debian != nil,
		Interactive: m.Interactive,
		Rows:        rows,
		Cols:        cols,
	})
	if err != nil {
		return nil, fmt.Errorf("write init's configuration: %w", err)
	}
	return config, nil
}

// terminalSize returns the size of this process's terminal. A guest cannot query it
// over its serial port.
func (m *Machine) terminalSize() (rows, cols uint16) {
	if !m.Interactive {
		return 0, 0
	}
	size, err := unix.IoctlGetWinsize(int(os.Stdin.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0, 0
	}
	return size.Row, size.Col
}

func addModules(t *tree, image *Image, names []string) error {
	files, err := image.moduleFiles(names)
	if err != nil {
		return err
	}
	indexes, err := filepath.Glob(filepath.Join(image.Modules, "modules.*"))
	if err != nil {
		return fmt.Errorf("list the module indexes: %w", err)
	}
	for _, index := range indexes {
		files = append(files, filepath.Base(index))
	}
	for _, file := range files {
		t.file(path.Join("/lib/modules", image.Release, file), filepath.Join(image.Modules, file))
	}
	return nil
}
