//go:build linux

// Command demo boots the newest kernel of the test matrix in QEMU, runs the extension
// there under an osquery, loads modules in four ways, and shows them in the SQL shell.
// Its exit status is 1 if a detection is missing. With -shell it ends in the guest's
// SQL shell instead.
package main

import (
	"context"
	"flag"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/kmodquery/kmodquery/test/vm"
	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// extension is the path of the extension in the guest.
const extension = "/usr/lib/kmodquery/kmodquery.ext"

func main() {
	guest.Init()
	log.SetFlags(0)
	log.SetPrefix("demo: ")
	shell := flag.Bool("shell", false, "end in the guest's SQL shell")
	flag.Parse()
	if guest.Kernel() != "" {
		if err := inGuest(*shell); err != nil {
			log.Fatal(err)
		}
		return
	}
	if err := onHost(*shell); err != nil {
		log.Fatal(err)
	}
}

// onHost boots a VM whose init and only program is this binary.
func onHost(shell bool) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	dir, err := os.MkdirTemp("", "kmodquery-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	kernel := vm.Newest()
	built := filepath.Join(dir, "kmodquery.ext")
	log.Print("building the extension")
	if err := vm.Build(ctx, kernel.Arch, "./extension", built); err != nil {
		return err
	}
	self, err := vm.Self()
	if err != nil {
		return err
	}
	machine := vm.Machine{
		Options: vm.Options{
			Modules: []string{"nbd", "tcp_nv"},
			Files:   map[string]string{extension: built},
		},
		Kernel:      kernel,
		Init:        self,
		Args:        []string{"/init"},
		Output:      os.Stdout,
		Log:         log.Printf,
		Interactive: shell,
	}
	if shell {
		machine.Args = append(machine.Args, "-shell")
	}
	log.Printf("booting Linux %s in QEMU", kernel)
	result, err := machine.Run(ctx)
	if err != nil {
		return err
	}
	log.Printf("Linux %s: booted in %.1f s, ended after %.1f s", result.Release, result.Boot.Seconds(), result.Total.Seconds())
	if result.ExitCode != 0 {
		os.RemoveAll(dir)
		os.Exit(result.ExitCode)
	}
	return nil
}
