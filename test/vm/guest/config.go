//go:build linux

package guest

import (
	"encoding/json"
	"fmt"
	"os"
)

// ConfigPath is the path of init's [Config] in the VM. No other machine has this file,
// so Init can distinguish process 1 of a VM from process 1 of a container.
const ConfigPath = "/kmodquery-vm.json"

// A Config is the host's configuration of init.
type Config struct {
	Kernel  string // the kernel's name in the matrix, given to the children in [KernelEnv]
	Runs    []Run  // the children, one after the other
	Results string // the serial port for the children's output and the exit code, in /dev
	Console string // the kernel's console, in /dev
	// Installed is true if the system has commands and network interfaces of its own.
	Installed bool
	// Interactive gives a child the console as its controlling terminal;
	// otherwise its input is empty and its output goes to Results.
	Interactive bool
	Rows, Cols  uint16 // the size of the interactive terminal; 0 when unknown
}

// A Run is one child of init.
type Run struct {
	Args []string // a program's path and its arguments
	Env  []string // additions to the environment, as NAME=value
}

// KernelEnv is the environment variable with the kernel's name. It is set only for
// init's children.
const KernelEnv = "KMODQUERY_VM_KERNEL"

// ServiceEnv is set in the environment of the service that does init's work below
// another init.
const ServiceEnv = "KMODQUERY_VM_SERVICE"

// Init frames the children's output on the results port with these lines.
// The byte 0x16 (SYN) cannot be typed into a test's log by accident.
const (
	ReadyLine  = "\x16vm ready\n"
	NextLine   = "\x16vm next\n" // between the output of two children
	ExitPrefix = "\x16vm exit "  // followed by the exit code and a newline
)

func readConfig() (*Config, error) {
	data, err := os.ReadFile(ConfigPath)
	if err != nil {
		return nil, fmt.Errorf("read init's configuration: %w", err)
	}
	var c Config
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, fmt.Errorf("parse %s: %w", ConfigPath, err)
	}
	return &c, nil
}
