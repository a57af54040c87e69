package main

import (
	"context"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/collectors"
	"github.com/kmodquery/kmodquery/linux"
	"github.com/kmodquery/kmodquery/linux/ondisk"
	"github.com/kmodquery/kmodquery/linux/views"
	"github.com/kmodquery/kmodquery/tables"
)

// sources lists the platform's sources of events.
func sources(c *config) []collectors.Source {
	return []collectors.Source{linux.NewEBPF(linux.EBPFOptions{ImageLimit: c.imageLimit})}
}

// An inventory is what this host's views and disk say of its modules.
type inventory struct {
	*ondisk.Disk
	views *views.Views
}

func newInventory() tables.Inventory {
	return &inventory{Disk: ondisk.New("/", kernelRelease()), views: views.New("/")}
}

// Modules leaves out what only seems to hide.
func (i *inventory) Modules(ctx context.Context) ([]kmodquery.Module, error) {
	modules, err := i.views.Modules(ctx)
	if err != nil {
		return nil, err
	}
	hidden, err := i.views.Confirm(ctx, modules)
	if err != nil {
		return nil, err
	}
	listed := slices.DeleteFunc(modules, func(m kmodquery.Module) bool { return m.IsHidden() })
	return append(listed, hidden...), nil
}

// kernelRelease is what uname -r prints.
func kernelRelease() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return ""
	}
	return unix.ByteSliceToString(name.Release[:])
}

// maxImageLimit is the greatest --image-limit, and the default.
const maxImageLimit = linux.MaxImage
