//go:build linux

package e2e

import (
	"fmt"
	"os"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// load is
//
//	load file|memory MODULE
//
// A load by file uses MODULE.ko in the current folder.
func load(ts *testscript.TestScript, args []string) error {
	if err := checkArgs(args, 2, "load file|memory MODULE"); err != nil {
		return err
	}
	way, name := args[0], args[1]
	image, err := guest.ModuleImage(name)
	if err != nil {
		return err
	}
	switch way {
	case "file":
		path := ts.MkAbs(name + ".ko")
		if err := os.WriteFile(path, image, 0o600); err != nil {
			return err
		}
		return guest.LoadFile(path, "")
	case "memory":
		return guest.LoadImage(image, "")
	}
	return fmt.Errorf("load %s: unknown way", way)
}

func unload(_ *testscript.TestScript, args []string) error {
	if err := checkArgs(args, 1, "unload MODULE"); err != nil {
		return err
	}
	return guest.Unload(args[0])
}
