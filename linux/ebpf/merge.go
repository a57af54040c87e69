//go:build linux

package ebpf

import "github.com/kmodquery/kmodquery"

// learn takes from an event what holds for its whole attempt.
func (a *attempt) learn(e *kmodquery.Event) {
	fill(&a.known, e)
	for _, column := range []string{"path", "filesystem", "origin"} {
		if e.Missing.Has(column) {
			a.known.Missing.Add(column)
		}
	}
}

// complete gives an event what is known of its attempt and what the event does
// not say itself. What the kernel said comes before what the image says.
func (a *attempt) complete(e *kmodquery.Event) {
	known := a.known
	if a.live {
		// What became of the call is for its own row: whether it was over when
		// an earlier one was written is chance.
		known.Result, known.Error = nil, ""
	}
	fill(e, &known)
	for column := range known.Missing.All() {
		e.Missing.Add(column)
	}
	if a.params != nil {
		// What stands in the caller's memory may be another text by now.
		e.Missing.Remove("params")
		e.Params = params(e, *a.params)
	}
	if !a.taken {
		return
	}
	image := a.image
	if image == nil {
		none := noImageInfo()
		image = &none
	}
	fill(e, &image.columns)
	if image.columns.SHA256 != "" {
		e.Missing.Remove("version") // where it says none, there is none
		e.Missing.Remove("srcversion")
	}
	for column := range image.columns.Missing.All() {
		if e.Lacks(column) {
			e.Missing.Add(column)
		}
	}
	if image.columns.SHA256 == "" {
		e.Missing.Add("name") // unless the kernel came to say it
	}
	for _, column := range []string{"name", "version", "srcversion", "size", "flags"} {
		if !e.Lacks(column) {
			e.Missing.Remove(column)
		}
	}
	if e.SignatureStatus == "" {
		e.SignatureStatus = a.unverified(image)
	}
}

// unverified is the state of a signature on which the kernel gave no verdict.
func (a *attempt) unverified(image *imageInfo) string {
	isUnreadable := image.columns.Missing.Has("signer")
	switch {
	case image.isSigned && a.live:
		return kmodquery.SignatureUntrusted
	case image.isSigned || isUnreadable:
		return kmodquery.SignatureUnknown
	default:
		return kmodquery.SignatureUnsigned
	}
}

// isNamed reports whether the name of the module is known.
func (a *attempt) isNamed() bool {
	return a.known.Name != "" || a.image != nil && a.image.columns.Name != ""
}

// fill copies the facts of an attempt that to lacks. What belongs to a moment
// (time, event name, process) is not among them.
func fill(to, from *kmodquery.Event) {
	for _, text := range []struct{ to, from *string }{
		{&to.Name, &from.Name},
		{&to.Path, &from.Path},
		{&to.Type, &from.Type},
		{&to.Origin, &from.Origin},
		{&to.Filesystem, &from.Filesystem},
		{&to.SHA256, &from.SHA256},
		{&to.ImageSHA256, &from.ImageSHA256},
		{&to.HashSource, &from.HashSource},
		{&to.SignatureStatus, &from.SignatureStatus},
		{&to.Signer, &from.Signer},
		{&to.SignatureKeyID, &from.SignatureKeyID},
		{&to.SignatureHash, &from.SignatureHash},
		{&to.Vermagic, &from.Vermagic},
		{&to.License, &from.License},
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
		{&to.Intree, &from.Intree},
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
