//go:build linux

package guest

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ramDisk is the first disk of the module brd. The host must have put the module into
// the VM.
const ramDisk = "/dev/ram0"

// MountImage mounts a copy of the filesystem in the image on dir. There is only one
// disk: call unmount before the next MountImage.
func MountImage(image, kind, dir string) (unmount func() error, err error) {
	content, err := os.ReadFile(image)
	if err != nil {
		return nil, fmt.Errorf("read the filesystem: %w", err)
	}
	brd, err := ModuleImage("brd")
	if err != nil {
		return nil, err
	}
	if err := LoadImage(brd, fmt.Sprintf("rd_nr=1 rd_size=%d", (len(content)+1023)/1024)); err != nil {
		return nil, fmt.Errorf("make a disk: %w", err)
	}
	if err := os.WriteFile(ramDisk, content, 0); err != nil {
		return nil, errors.Join(fmt.Errorf("fill the disk: %w", err), Unload("brd"))
	}
	if err := unix.Mount(ramDisk, dir, kind, 0, ""); err != nil {
		return nil, errors.Join(fmt.Errorf("mount the disk: %w", err), Unload("brd"))
	}
	return func() error {
		if err := unix.Unmount(dir, 0); err != nil {
			return fmt.Errorf("unmount the disk: %w", err)
		}
		return Unload("brd")
	}, nil
}
