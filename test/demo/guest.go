//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery/test/osqueryhost"
	"github.com/kmodquery/kmodquery/test/vm/guest"
)

const (
	stateDir = "/var/lib/kmodquery"
	// waitForTables is the time within which the extension must load its programs and
	// register in an emulator.
	waitForTables = 2 * time.Minute
)

// A step is one way to pass a module to the kernel.
type step struct {
	title string
	load  func() error
}

var steps = []step{
	{"modprobe dummy, from /lib/modules", func() error { return command("modprobe", "dummy", "numdummies=2") }},
	{"insmod /tmp/network.ko, a file in /tmp", func() error {
		if err := copyModule("tcp_nv", "/tmp/network.ko"); err != nil {
			return err
		}
		return command("insmod", "/tmp/network.ko")
	}},
	{"finit_module of a memfd, a file without a path", func() error {
		image, err := guest.ModuleImage("nbd")
		if err != nil {
			return err
		}
		return loadMemfd(image, "nbds_max=1")
	}},
	{"init_module of a damaged image, which the kernel refuses", func() error {
		image, err := guest.ModuleImage("dummy")
		if err != nil {
			return err
		}
		if err := guest.LoadImage(image[:1000], ""); !errors.Is(err, unix.ENOEXEC) {
			return fmt.Errorf("the kernel did not refuse a damaged image with ENOEXEC (%w)", err)
		}
		return nil
	}},
}

// inGuest runs the extension under an osquery, performs the steps and shows the
// recorded attempts.
func inGuest(shell bool) error {
	ctx := context.Background()
	host, err := osqueryhost.Start(ctx, osqueryhost.Options{Dir: "/run"})
	if err != nil {
		return err
	}
	defer host.Close()
	if _, err := host.StartExtension(extension, "--state-dir", stateDir); err != nil {
		return err
	}
	waiting, cancel := context.WithTimeout(ctx, waitForTables)
	defer cancel()
	if err := host.WaitForTable(waiting, "kernel_module_findings"); err != nil {
		return err
	}
	if err := awaitWatching(waiting, host); err != nil {
		return err
	}
	for _, s := range steps {
		fmt.Printf("* %s\n", s.title)
		if err := s.load(); err != nil {
			return err
		}
	}
	// The recorder itself runs this query, so it counts every load that was observed.
	rows, err := host.Query(ctx, `SELECT count(*) AS attempts, count(DISTINCT nullif(load_id, '')) AS load_ids, sum(findings LIKE '%TRC-1017') AS findings
		FROM kernel_module_loads`)
	if err != nil {
		return err
	}
	fmt.Println()
	if err := show(shell); err != nil {
		return err
	}
	want := fmt.Sprint(len(steps))
	if rows[0]["findings"] != want || rows[0]["attempts"] != want || rows[0]["load_ids"] != want {
		return fmt.Errorf("%s rows with %s load_ids and %s TRC-1017 findings, not one for each of %s attempts",
			rows[0]["attempts"], rows[0]["load_ids"], rows[0]["findings"], want)
	}
	fmt.Printf("%s attempts, %s TRC-1017 findings.\n", want, want)
	return nil
}

// awaitWatching waits until the eBPF programs are attached and the sources that stood in
// for them have stopped. What is loaded before may lack its path and its hash.
func awaitWatching(ctx context.Context, host *osqueryhost.Host) error {
	const watching = "SELECT source, reason FROM kernel_module_sensors WHERE state = 'active' AND source NOT IN ('procfs')"
	for {
		rows, err := host.Query(ctx, watching)
		if err == nil && len(rows) == 1 && rows[0]["source"] == "ebpf" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the eBPF source does not watch within %s: %v, %w", waitForTables, rows, errors.Join(err, ctx.Err()))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// show runs the extension's own shell on the store that the extension under osquery
// writes. Without input the shell prints its overview.
func show(interactive bool) error {
	cmd := exec.Command(extension, "query", "--state-dir", stateDir)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if interactive {
		cmd.Stdin = os.Stdin
		fmt.Println("SQL on the guest's tables; .tables lists them, .quit ends the VM.")
	}
	return cmd.Run()
}

func command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

func copyModule(name, path string) error {
	image, err := guest.ModuleImage(name)
	if err != nil {
		return err
	}
	return os.WriteFile(path, image, 0o600)
}

// loadMemfd loads a module that was never in a file system.
func loadMemfd(image []byte, params string) error {
	fd, err := unix.MemfdCreate("nothing to see", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("memfd_create: %w", err)
	}
	memfd := os.NewFile(uintptr(fd), "memfd")
	defer memfd.Close()
	if _, err := memfd.Write(image); err != nil {
		return err
	}
	// finit_module refuses a file that is open for writing.
	reader, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return err
	}
	defer reader.Close()
	if err := unix.FinitModule(int(reader.Fd()), params, 0); err != nil {
		return fmt.Errorf("finit_module: %w", err)
	}
	return nil
}
