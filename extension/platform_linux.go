package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/collectors"
	"github.com/kmodquery/kmodquery/collectors/crossview"
	"github.com/kmodquery/kmodquery/extension/doctor"
	"github.com/kmodquery/kmodquery/linux/audit"
	"github.com/kmodquery/kmodquery/linux/autostart"
	"github.com/kmodquery/kmodquery/linux/ebpf"
	"github.com/kmodquery/kmodquery/linux/host"
	"github.com/kmodquery/kmodquery/linux/klog"
	"github.com/kmodquery/kmodquery/linux/ondisk"
	"github.com/kmodquery/kmodquery/linux/views"
	"github.com/kmodquery/kmodquery/tables"
	"github.com/kmodquery/kmodquery/tables/sqlite"
)

// hostPlatform returns the platform of Linux.
func hostPlatform() *platform {
	return &platform{
		sourceNames: []string{
			kmodquery.SourceEBPF,
			kmodquery.SourceAudit,
			kmodquery.SourceJournal,
			kmodquery.SourceKmsg,
			kmodquery.SourceSyslog,
		},
		backfill:      []string{kmodquery.SourceJournal, kmodquery.SourceKmsg, kmodquery.SourceSyslog},
		defaultPoll:   collectors.DefaultPoll,
		maxImageLimit: ebpf.MaxImage,
		hasModules:    hasModules,
		openSource:    openSource,
		openViews:     openViews,
		viewsSource:   kmodquery.SourceProcfs,
		stamp:         host.Stamp,
		newInventory:  newInventory,
		newAutostart:  newAutostart,
		hasPins:       ebpf.HasPins,
		removePins:    ebpf.Detach,
		kernelRelease: kernelRelease,
		users:         host.Users,
		memoryLimit:   func() int64 { return host.MemoryLimit("/") },
		threadTime:    host.ThreadTime,
		checks:        func(c *config) []doctor.Check { return doctor.Linux(kernelRelease(), c.pinDir) },
		osquery:       linuxOsquery,
	}
}

func hasModules() bool {
	_, err := os.Stat("/proc/modules")
	return !errors.Is(err, fs.ErrNotExist)
}

func openSource(name string, c *config, store *sqlite.Store) collectors.Source {
	position := func(ctx context.Context) (string, error) { return store.Position(ctx, name) }
	switch name {
	case kmodquery.SourceEBPF:
		return ebpf.New(ebpf.Options{
			ImageLimit: c.imageLimit,
			PinDir:     c.pinDir,
			OnlyPinned: c.command == "query" || c.command == "report" || c.command == "detach",
			HasCanary:  !c.isWithoutCanary && c.command != "query" && c.command != "report" && c.command != "detach",
			Watched:    store.LastWatched,
			KeepWatch:  store.SetWatched,
			Gap:        store.Gap,
			KeepGap:    store.SetGap,
			Keys:       func(ctx context.Context) ([]string, error) { return store.Keys(ctx, name) },

			Reading:      store.Reading,
			KeepReading:  store.SetReading,
			Canaries:     store.Canaries,
			KeepCanaries: store.SetCanaries,
		})
	case kmodquery.SourceAudit:
		s := audit.New(position)
		s.LeaveOut(store.Canaries)
		return s
	case kmodquery.SourceJournal:
		return klog.NewJournal(position)
	case kmodquery.SourceKmsg:
		return klog.NewKmsg(position)
	case kmodquery.SourceSyslog:
		return klog.NewSyslog(position)
	}
	panic("no source is called " + name)
}

func openViews() crossview.Views {
	if !hasModules() {
		return nil
	}
	return kernelViews{views.New("/")}
}

// kernelViews are the views of the kernel as the cross-view check uses them.
type kernelViews struct{ *views.Views }

func (v kernelViews) Shown() (shown []string, reason string) {
	var errs []string
	for _, view := range v.Status() {
		if view.Err != nil {
			errs = append(errs, view.Err.Error())
			continue
		}
		shown = append(shown, view.View)
	}
	return shown, strings.Join(errs, "; ")
}

// An inventory joins the modules that the views show with their files and their events.
type inventory struct {
	*ondisk.Disk
	views    *views.Views
	recorder recorder
	reading  chan struct{} // holds a value while the views are read
}

func newInventory(r recorder) tables.Inventory {
	return &inventory{Disk: ondisk.New("/", kernelRelease()), views: views.New("/"), recorder: r, reading: make(chan struct{}, 1)}
}

// Modules omits modules that only seem to be hidden. Only one call at a time reads the
// views, so that a kernel that hangs in a read blocks one query and not the other tables.
func (i *inventory) Modules(ctx context.Context) ([]kmodquery.Module, error) {
	select {
	case i.reading <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-i.reading }()
	modules, err := i.views.Modules(ctx)
	if err != nil {
		return nil, err
	}
	hidden, err := i.views.Confirm(ctx, modules)
	if err != nil {
		return nil, err
	}
	listed := slices.DeleteFunc(modules, func(m kmodquery.Module) bool { return m.IsHidden() })
	return withEvents(ctx, i.recorder, append(listed, hidden...))
}

// places are the places that load modules, with the files that they name.
type places struct {
	*autostart.Reader
	*ondisk.Disk
}

func newAutostart() tables.Autostart {
	return places{autostart.New("/", kernelRelease()), ondisk.New("/", kernelRelease())}
}

func kernelRelease() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return ""
	}
	return unix.ByteSliceToString(name.Release[:])
}
