//go:build linux

package vm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// A Debian is an installed Debian with systemd, a kernel that its package manager
// installed, and a dkms module that was built for this kernel.
type Debian struct {
	Name    string // of the kernel, such as "6.12"
	Release string // of the kernel, as uname -r prints it
	Linux   string // the bootable file
	Initrd  string // Debian's own initial RAM disk
	Disk    string // image of an ext4 filesystem with the root folder
}

// debianPackages are what an ordinary host has beside Debian's minimal base. The
// compiler, the headers and openssl are for dkms, which builds and signs a module.
var debianPackages = []string{
	"systemd-sysv", "udev", "dbus", "libpam-systemd", "kmod", "initramfs-tools", "zstd", "nftables", "iproute2", "busybox-static",
	"linux-image-amd64", "linux-headers-amd64", "gcc", "make", "openssl", "dkms", "acpi-call-dkms",
}

// upgradeSuite is the suite of the kernel that replaces the one of toolsSuite.
const upgradeSuite = toolsSuite + "-backports"

// DebianKernels returns a Debian as it was installed, and the same one after its package
// manager has upgraded the kernel: the two differ in nothing else. The host must be a
// Debian machine, and the process root, because packages run their scripts in a chroot.
func DebianKernels(ctx context.Context, logf Logf) ([]*Debian, error) {
	if os.Getuid() != 0 {
		return nil, errors.New("install Debian into a folder: run as root")
	}
	if err := Prepare(ctx, AMD64, logf); err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(strings.Join(debianPackages, " ") + upgradeSuite))
	dir, err := cached(ctx, "debian", hex.EncodeToString(sum[:4]), func(dir string) error { return installDebian(ctx, dir, logf) })
	if err != nil {
		return nil, fmt.Errorf("install Debian: %w", err)
	}
	var all []*Debian
	for _, name := range []string{"installed", "upgraded"} {
		d, err := readDebian(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		all = append(all, d)
	}
	return all, nil
}

func installDebian(ctx context.Context, dir string, logf Logf) error {
	if _, err := findProgram("mmdebstrap"); err != nil {
		if err := aptInstall(ctx, []string{"mmdebstrap"}, logf); err != nil {
			return err
		}
	}
	uri, err := mirror(ctx, false)
	if err != nil {
		return err
	}
	// Not below dir, whose content is kept.
	root, err := os.MkdirTemp("", "kmodquery-debian-")
	if err != nil {
		return fmt.Errorf("make a folder for Debian: %w", err)
	}
	defer os.RemoveAll(root)
	logf("installing Debian %s", toolsSuite)
	args := []string{
		"--quiet", "--mode=root", "--variant=minbase", "--skip=cleanup/apt", "--include=" + strings.Join(debianPackages, ","), toolsSuite, root,
	}
	for _, suite := range []string{toolsSuite, upgradeSuite} {
		args = append(args, fmt.Sprintf("deb %s %s main", uri, suite))
	}
	if _, err := run(ctx, "", "mmdebstrap", args...); err != nil {
		return err
	}
	if err := keepDebian(ctx, root, filepath.Join(dir, "installed")); err != nil {
		return err
	}
	logf("upgrading its kernel to that of %s", upgradeSuite)
	// The compiler's checks of objects need /proc. The mount ends with its namespace.
	upgrade := `mount -t proc proc "$1/proc" && exec chroot "$1" apt-get install -q -y --no-install-recommends -t "$2" linux-image-amd64 linux-headers-amd64`
	if _, err := run(ctx, "", "unshare", "--mount", "sh", "-c", upgrade, "sh", root, upgradeSuite); err != nil {
		return err
	}
	return keepDebian(ctx, root, filepath.Join(dir, "upgraded"))
}

// keepDebian writes an image of the root folder, and its newest kernel, to a folder.
func keepDebian(ctx context.Context, root, dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("make the cache: %w", err)
	}
	release, err := newestInstalled(root)
	if err != nil {
		return err
	}
	for from, to := range map[string]string{"vmlinuz-": "vmlinuz-", "initrd.img-": "initrd-"} {
		if _, err := run(ctx, "", "cp", filepath.Join(root, "boot", from+release), filepath.Join(dir, to+release)); err != nil {
			return err
		}
	}
	_, err = run(ctx, "", "mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-d", root, filepath.Join(dir, "root.ext4"), "3G")
	return err
}

func newestInstalled(root string) (string, error) {
	files, err := filepath.Glob(filepath.Join(root, "boot", "vmlinuz-*"))
	if err != nil || len(files) == 0 {
		return "", fmt.Errorf("Debian in %s has no kernel: %w", root, err)
	}
	slices.SortFunc(files, func(a, b string) int { return slices.Compare(numbers(filepath.Base(a)), numbers(filepath.Base(b))) })
	return strings.TrimPrefix(filepath.Base(files[len(files)-1]), "vmlinuz-"), nil
}

var majorMinor = regexp.MustCompile(`^[0-9]+\.[0-9]+`)

func readDebian(dir string) (*Debian, error) {
	files, err := filepath.Glob(filepath.Join(dir, "vmlinuz-*"))
	if err != nil || len(files) != 1 {
		return nil, fmt.Errorf("Debian in the cache is damaged: remove %s", filepath.Dir(dir))
	}
	release := strings.TrimPrefix(filepath.Base(files[0]), "vmlinuz-")
	return &Debian{
		Name:    majorMinor.FindString(release),
		Release: release,
		Linux:   files[0],
		Initrd:  filepath.Join(dir, "initrd-"+release),
		Disk:    filepath.Join(dir, "root.ext4"),
	}, nil
}

// usualDevices are what a PC has: their drivers are modules that udev loads.
var usualDevices = []string{
	"-device", "VGA",
	"-device", "e1000",
	"-device", "virtio-net-pci",
	"-device", "virtio-rng-pci",
	"-device", "virtio-balloon-pci",
	"-device", "virtio-scsi-pci",
	"-device", "ich9-ahci",
	"-device", "intel-hda", "-device", "hda-duplex,audiodev=none", "-audiodev", "none,id=none",
	"-device", "qemu-xhci", "-device", "usb-tablet", "-device", "usb-kbd",
	"-device", "i6300esb",
}

// arguments are the emulator's arguments for the disks and the devices.
func (d *Debian) arguments(disk, state string) []string {
	args := slices.Clone(usualDevices)
	for _, file := range []string{disk, state} {
		args = append(args, "-drive", "if=virtio,format=raw,cache=unsafe,file="+file)
	}
	return args
}

// cmdline are the additions to the kernel's command line.
func (d *Debian) cmdline() []string { return []string{"root=/dev/vda", "rw", "rootfstype=ext4"} }

// MakeDisk writes an empty ext4 filesystem to the path, for Options.State.
func MakeDisk(ctx context.Context, path string) error {
	_, err := run(ctx, "", "mkfs.ext4", "-q", "-F", path, "512M")
	return err
}

// install writes a copy of the root's image with further files to the path.
func (m *Machine) install(ctx context.Context, p platform, disk string) error {
	if _, err := run(ctx, "", "cp", "--sparse=always", m.Debian.Disk, disk); err != nil {
		return err
	}
	t := newTree()
	for guestPath, hostPath := range m.Files {
		if err := t.copy(guestPath, hostPath); err != nil {
			return err
		}
	}
	t.file("/init", m.Init)
	config, err := m.config(p)
	if err != nil {
		return err
	}
	t.data(guest.ConfigPath, config)
	return t.write(ctx, disk)
}
