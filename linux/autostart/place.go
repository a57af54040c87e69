//go:build linux

package autostart

import "github.com/kmodquery/kmodquery"

// A place collects the entries of one place.
type place struct {
	name    string
	stage   string
	entries []kmodquery.AutostartEntry
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
	files, err := r.readFolders(folders, suffix, singles...)
	if err != nil {
		p.add(incomplete(p.name, p.stage, err))
	}
	for _, f := range files {
		if f.mask != nil && f.resolved == f.mask.resolved { // the same file
			continue
		}
		if f.err != nil && !f.isNull() {
			p.add(f.unread(p.name, p.stage))
		}
		visit(f)
	}
}
