//go:build linux

package autostart

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/kmodquery/kmodquery"
)

// A place collects the entries of one place.
type place struct {
	name    string
	stage   string
	entries []kmodquery.AutostartEntry
	left    *budget // of what its files take; nil before the first is read
}

// budget returns what may still be read of the place.
func (p *place) budget() *budget {
	if p.left == nil {
		p.left = newBudget()
	}
	return p.left
}

// add appends an entry. It returns false if there is no room for more.
func (p *place) add(e kmodquery.AutostartEntry) bool {
	if len(p.entries) >= maxLines {
		return false
	}
	if p.entries = append(p.entries, e); len(p.entries) < maxLines {
		return true
	}
	p.entries = append(p.entries, incomplete(p.name, p.stage, errTooMany))
	return false
}

// entry returns an entry of a line, which takes effect unless its file is masked.
func (p *place) entry(f *file, number int64, text string) kmodquery.AutostartEntry {
	e := f.entry(p.name, p.stage, number, text)
	e.Effective = new(int64(1))
	if f.mask != nil {
		e.Effective, e.Reason = new(int64(0)), f.masked()
	}
	return e
}

// read reads the files of folders and single files, as readFolders does, and calls visit with
// each that was read, also in part.
func (p *place) read(r *reading, folders []string, suffix string, singles []string, visit func(*file)) {
	files, err := r.readFolders(p.budget(), folders, suffix, singles...)
	if err != nil {
		p.add(incomplete(p.name, p.stage, err))
	}
	for _, f := range files {
		if f.mask != nil && f.resolved == f.mask.resolved { // the same file
			continue
		}
		isFolder := f.info != nil && f.info.IsDir()
		if f.err != nil && !f.isNull() && (!isFolder || suffix != "") {
			p.add(f.unread(p.name, p.stage))
		}
		visit(f)
	}
}

// readFile reads a single file, if there is one, as read does.
func (p *place) readFile(r *reading, at string, visit func(*file)) {
	f := r.readFile(at)
	if f == nil {
		return
	}
	if p.budget().bytes -= len(f.data); p.left.bytes < 0 {
		f.data, f.err = nil, errTooMany
	}
	if f.err != nil {
		p.add(f.unread(p.name, p.stage))
	}
	visit(f)
}

// within returns the paths of what has a suffix in a folder, in the order of their names.
func (p *place) within(r *reading, folder, suffix string) []string {
	resolved, err := r.tree.Resolve(folder)
	if err != nil {
		return nil
	}
	var paths []string
	left := p.budget()
	err = r.tree.Names(resolved, func(name string) bool {
		left.names--
		if strings.HasSuffix(name, suffix) {
			paths = append(paths, folder+"/"+name)
			left.files--
		}
		return left.names > 0 && left.files > 0
	})
	if left.names <= 0 || left.files <= 0 {
		p.add(incomplete(p.name, p.stage, errTooMany))
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		p.add(incomplete(p.name, p.stage, fmt.Errorf("cannot read %s: %s", folder, reason(err))))
	}
	slices.Sort(paths)
	return paths
}
