//go:build linux

package ebpf

import (
	"cmp"
	"slices"

	"github.com/kmodquery/kmodquery"
)

// merge adds the columns of an event that apply to the whole attempt.
func (a *attempt) merge(e *kmodquery.Event) {
	fill(&a.known, e)
	for _, column := range []string{"path", "filesystem", "origin"} {
		if e.Missing.Has(column) {
			a.known.Missing.Add(column)
		}
	}
}

// complete sets the columns that an event lacks and that its attempt knows. The
// kernel's values take precedence over the image's.
func (a *attempt) complete(e *kmodquery.Event) {
	known := a.known
	if a.isLive {
		// The result belongs to the call's own event: whether the call had
		// returned when an earlier event was emitted is chance.
		known.Result, known.Error = nil, ""
	}
	fill(e, &known)
	e.Missing.Add(slices.Collect(known.Missing.All())...)
	if a.params != nil {
		// The caller's memory may have changed since the kernel read it.
		e.Missing.Remove("params")
		e.Params = params(e, *a.params)
	}
	if !a.isTaken {
		return
	}
	image := noImageInfo()
	if a.image != nil {
		image = *a.image
	}
	fill(e, &image.columns)
	if image.columns.SHA256 != "" {
		e.Missing.Remove("version", "srcversion") // an image without them has none
	}
	for column := range image.columns.Missing.All() {
		if e.Lacks(column) {
			e.Missing.Add(column)
		}
	}
	if image.columns.SHA256 == "" {
		e.Missing.Add("name") // removed below if the kernel named it
	}
	for _, column := range []string{"name", "version", "srcversion", "size", "flags"} {
		if !e.Lacks(column) {
			e.Missing.Remove(column)
		}
	}
	if e.SignatureStatus == "" {
		e.SignatureStatus = a.unverified(&image)
	}
}

// unverified returns the signature_status of a module that the kernel did not
// verify.
func (a *attempt) unverified(image *imageInfo) string {
	isUnreadable := image.columns.Missing.Has("signer")
	switch {
	case image.isSigned && a.isVerified:
		return kmodquery.SignatureUntrusted
	case image.isSigned || isUnreadable:
		return kmodquery.SignatureUnknown
	default:
		return kmodquery.SignatureUnsigned
	}
}

// isNamed reports whether the module's name is known.
func (a *attempt) isNamed() bool {
	return a.known.Name != "" || a.image != nil && a.image.columns.Name != ""
}

// fill copies the columns that to lacks and that apply to a whole attempt: not the
// time, the event name and the process.
func fill(to, from *kmodquery.Event) {
	to.Name = cmp.Or(to.Name, from.Name)
	to.Path = cmp.Or(to.Path, from.Path)
	to.Type = cmp.Or(to.Type, from.Type)
	to.Origin = cmp.Or(to.Origin, from.Origin)
	to.Filesystem = cmp.Or(to.Filesystem, from.Filesystem)
	to.SHA256 = cmp.Or(to.SHA256, from.SHA256)
	to.ImageSHA256 = cmp.Or(to.ImageSHA256, from.ImageSHA256)
	to.HashSource = cmp.Or(to.HashSource, from.HashSource)
	to.SignatureStatus = cmp.Or(to.SignatureStatus, from.SignatureStatus)
	to.Signer = cmp.Or(to.Signer, from.Signer)
	to.SignatureKeyID = cmp.Or(to.SignatureKeyID, from.SignatureKeyID)
	to.SignatureHash = cmp.Or(to.SignatureHash, from.SignatureHash)
	to.Vermagic = cmp.Or(to.Vermagic, from.Vermagic)
	to.License = cmp.Or(to.License, from.License)
	to.Version = cmp.Or(to.Version, from.Version)
	to.Srcversion = cmp.Or(to.Srcversion, from.Srcversion)
	to.Error = cmp.Or(to.Error, from.Error)
	to.Device = cmp.Or(to.Device, from.Device)
	to.Inode = cmp.Or(to.Inode, from.Inode)
	to.Size = cmp.Or(to.Size, from.Size)
	to.Mtime = cmp.Or(to.Mtime, from.Mtime)
	to.Ctime = cmp.Or(to.Ctime, from.Ctime)
	to.Intree = cmp.Or(to.Intree, from.Intree)
	to.Flags = cmp.Or(to.Flags, from.Flags)
	to.Taints = cmp.Or(to.Taints, from.Taints)
	to.Result = cmp.Or(to.Result, from.Result)
	to.Params = cmp.Or(to.Params, from.Params)
}
