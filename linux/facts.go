//go:build linux

package linux

import "github.com/kmodquery/kmodquery"

// learn takes from an event what holds for its whole attempt.
func (a *attempt) learn(e kmodquery.Event) { fill(&a.known, &e) }

// complete gives an event what is known of its attempt and what the event does
// not say itself.
func (a *attempt) complete(e *kmodquery.Event) { fill(e, &a.known) }

// fill copies the facts of an attempt that to lacks. What belongs to a moment
// (time, event name, process) is not among them.
func fill(to, from *kmodquery.Event) {
	for _, text := range []struct{ to, from *string }{
		{&to.Name, &from.Name},
		{&to.Path, &from.Path},
		{&to.Type, &from.Type},
		{&to.Origin, &from.Origin},
		{&to.Filesystem, &from.Filesystem},
		{&to.Version, &from.Version},
		{&to.Srcversion, &from.Srcversion},
		{&to.Error, &from.Error},
	} {
		if *text.to == "" {
			*text.to = *text.from
		}
	}
	for _, number := range []struct{ to, from **int64 }{
		{&to.Device, &from.Device},
		{&to.Inode, &from.Inode},
		{&to.Size, &from.Size},
		{&to.Mtime, &from.Mtime},
		{&to.Ctime, &from.Ctime},
		{&to.Flags, &from.Flags},
		{&to.Taints, &from.Taints},
		{&to.Result, &from.Result},
	} {
		if *number.to == nil {
			*number.to = *number.from
		}
	}
	if to.Params == nil {
		to.Params = from.Params
	}
}
