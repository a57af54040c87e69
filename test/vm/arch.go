//go:build linux

package vm

import "fmt"

// An Arch is a processor architecture as Debian and Go both name it.
type Arch string

// The architectures that the project has BPF objects for.
const (
	AMD64 Arch = "amd64"
	ARM64 Arch = "arm64"
)

// A platform has QEMU's parameters for an architecture.
type platform struct {
	emulator string
	machine  []string
	console  string // the first serial port, in the guest's /dev
	results  string // the second one
	// resultsPort connects QEMU's character device "results" to the second
	// serial port. Serial ports are built into every kernel of the matrix,
	// virtio consoles are modules before 6.12.
	resultsPort []string
	triplet     string // of the guest's libraries
}

var platforms = map[Arch]platform{
	AMD64: {
		emulator: "qemu-system-x86_64",
		// Without cx16=off, Linux 6.12 panics in cmpxchg16b under QEMU 7.2.
		machine:     []string{"-machine", "pc", "-cpu", "max,cx16=off"},
		console:     "ttyS0",
		results:     "ttyS1",
		resultsPort: []string{"-serial", "chardev:results"},
		triplet:     "x86_64-linux-gnu",
	},
	ARM64: {
		emulator: "qemu-system-aarch64",
		// QEMU's own pointer authentication halves the boot time compared with the
		// architected algorithm.
		machine: []string{"-machine", "virt", "-cpu", "max,pauth-impdef=on"},
		console: "ttyAMA0",
		results: "ttyS0",
		// The virt machine has a single UART of its own.
		resultsPort: []string{"-device", "pci-serial,chardev=results"},
		triplet:     "aarch64-linux-gnu",
	},
}

func (a Arch) platform() (platform, error) {
	p, ok := platforms[a]
	if !ok {
		return platform{}, fmt.Errorf("no emulator is known for architecture %q", a)
	}
	return p, nil
}
