//go:build linux

package autostart

import (
	"context"
	"errors"
	"strings"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/internal/lookup"
	"github.com/kmodquery/kmodquery/linux/host"
)

// A Reader reads the places of a host. It may be used concurrently.
type Reader struct {
	root    string
	release string
	lookups *lookup.Runner[result]
}

type result struct {
	entries []kmodquery.AutostartEntry
	err     error
}

// New returns a reader of the places below root, which is "/" for this host. release is the
// running kernel's release, as uname -r prints it.
func New(root, release string) *Reader {
	return &Reader{root: root, release: release, lookups: lookup.New[result]()}
}

var errHangs = errors.New("read the places that load modules: a file system does not answer; ask again later")

// Entries returns the entries of all places.
func (r *Reader) Entries(ctx context.Context) ([]kmodquery.AutostartEntry, error) {
	read, ok := r.lookups.Run(ctx, "places", func(context.Context) result {
		entries, err := r.read()
		return result{entries, err}
	})
	if !ok {
		return nil, errHangs
	}
	return read.entries, read.err
}

// A reading is one reading of the places.
type reading struct {
	root    string // without a slash at its end
	release string
	tree    *host.Tree
}

func (r *Reader) open() (*reading, error) {
	tree, err := host.OpenTree(r.root)
	return &reading{root: strings.TrimSuffix(r.root, "/"), release: r.release, tree: tree}, err
}

func (r *Reader) read() ([]kmodquery.AutostartEntry, error) {
	reading, err := r.open()
	if err != nil {
		return nil, err
	}
	c := reading.readConfig()
	entries := reading.modulesLoadEntries(c)
	entries = append(entries, c.modprobeEntries()...)
	entries = append(entries, c.cmdlineEntries()...)
	entries = append(entries, reading.sysctlEntries()...)
	entries = append(entries, reading.udevEntries(c)...)
	entries = append(entries, reading.modulesDepEntries(c.modules)...)
	entries = append(entries, reading.initramfsEntries(c)...)
	entries = append(entries, reading.dracutEntries(c)...)
	entries = append(entries, reading.nextCmdlineEntries(c)...)
	entries = append(entries, reading.depmodEntries()...)
	entries = append(entries, reading.dkmsEntries()...)
	entries = append(entries, reading.programEntries()...)
	for i := range entries {
		cut(&entries[i])
	}
	return entries, nil
}
