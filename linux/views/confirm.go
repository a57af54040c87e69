package views

import (
	"context"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/kmodquery/kmodquery"
)

const (
	// enoughSamples is how many samples of memory must be usable for a result.
	enoughSamples = 10
	// proofs is how often Confirm tries to prove that a module is hidden while the
	// list shows it.
	proofs = 8
)

// Confirm checks the hidden modules among the suspects again. It returns those that are
// still hidden and whose hiding loads and unloads during the check cannot explain.
//
// A module that sysfs or btf shows is proven to be hidden at once, if the list does not
// show it and its folder or file is the same before and after the list is read. The kernel
// gives each new folder or file another number, and lists a module for as long as it has
// one. Confirm tries this several times, and one success is enough, so that it finds a
// module that is hidden and listed in turn.
//
// A module that only ftrace or kallsyms shows must still be there after 0.6 s in which the
// list is read repeatedly and never shows it.
//
// Memory without a name must exist for 2 s, in every sample during which no module was
// loaded or unloaded. The kernel frees memory late, so the caller should confirm such
// memory a second time about ten seconds later.
func (v *Views) Confirm(ctx context.Context, suspects []kmodquery.Module) ([]kmodquery.Module, error) {
	var confirmed, open []kmodquery.Module
	for _, m := range suspects {
		if !m.IsHidden() {
			continue
		}
		proof, err := v.prove(ctx, m)
		switch {
		case err != nil:
			return nil, err
		case proof == hidden:
			confirmed = append(confirmed, m)
		case proof == unproven:
			open = append(open, m)
		}
	}
	if len(open) == 0 {
		return confirmed, nil
	}
	watched, err := v.watch(ctx, open)
	return append(confirmed, watched...), err
}

// A proof is the result of an attempt to prove that a module is hidden.
type proof int

const (
	unproven proof = iota
	hidden         // proven to be hidden
	shown          // the list shows the module
)

// notOfModules are names that btf and sysfs have for other things. A symbol may have them.
var notOfModules = []string{".", "..", "vmlinux"}

// prove tries to prove that a module is hidden, up to proofs times while the list shows
// the module.
func (v *Views) prove(ctx context.Context, m kmodquery.Module) (proof, error) {
	if m.Name == "" || slices.Contains(notOfModules, m.Name) {
		return unproven, nil
	}
	for try := 1; ; try++ {
		found, err := v.proveOnce(ctx, m.Name)
		if err != nil || found != shown || try == proofs {
			return found, err
		}
		if err := sleep(ctx, v.pause); err != nil {
			return unproven, err
		}
	}
}

// proveOnce compares the list with the module's folder in sysfs and file in btf.
func (v *Views) proveOnce(ctx context.Context, name string) (proof, error) {
	before := v.identities(name)
	for _, chunk := range []int{wholePages, otherChunk} {
		isListed, err := v.isListed(ctx, name, chunk)
		if err != nil {
			return unproven, err
		}
		if isListed {
			return shown, nil
		}
	}
	for i, after := range v.identities(name) {
		if before[i] != nil && after != nil && os.SameFile(before[i], after) {
			return hidden, nil
		}
	}
	return unproven, nil
}

// identities returns the module's folder in sysfs and its file in btf; nil for each that
// does not exist.
func (v *Views) identities(name string) [2]fs.FileInfo {
	var found [2]fs.FileInfo
	if folder := v.folder(name); isLoaded(folder) {
		found[0], _ = os.Lstat(folder)
		// The folder may have been replaced by that of a module built into the kernel.
		if !isLoaded(folder) {
			found[0] = nil
		}
	}
	found[1], _ = os.Lstat(filepath.Join(v.path(sysBTF), kmodquery.FolderName(name)))
	return found
}

func (v *Views) isListed(ctx context.Context, name string, chunk int) (bool, error) {
	modules, err := v.listed(ctx, chunk)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(modules, func(m kmodquery.Module) bool {
		return kmodquery.FolderName(m.Name) == kmodquery.FolderName(name)
	}), nil
}

// watch samples the list and the memory of modules, and returns the suspects that are
// still hidden afterwards.
func (v *Views) watch(ctx context.Context, suspects []kmodquery.Module) ([]kmodquery.Module, error) {
	wasListed := map[string]bool{}
	held := map[uint64]int{} // by address, samples in which a region had no owner
	least, calm := int64(math.MaxInt64), 0
	window := v.window
	if again(suspects, kmodquery.Module{}) != nil {
		window = v.patience
	}
	for end := time.Now().Add(window); time.Now().Before(end); {
		modules, regions, isCalm, err := v.memory(ctx)
		if err != nil {
			return nil, err
		}
		for _, m := range modules {
			wasListed[kmodquery.FolderName(m.Name)] = true
		}
		if isCalm {
			calm++
			least = min(least, excess(regions, modules))
			owned := newMemory(regions)
			for _, m := range modules {
				if m.Address != nil {
					owned.own(uint64(*m.Address), m.Name)
				}
			}
			for i, r := range owned.regions {
				if owned.owners[i] == "" {
					held[r.address]++
				}
			}
		}
		if err := sleep(ctx, v.pause); err != nil {
			return nil, err
		}
	}
	now, err := v.Modules(ctx)
	if err != nil {
		return nil, err
	}
	var confirmed []kmodquery.Module
	for _, m := range suspects {
		found := again(now, m)
		switch {
		case found == nil:
		case m.Name != "":
			if found.IsHidden() && !wasListed[kmodquery.FolderName(m.Name)] {
				confirmed = append(confirmed, *found)
			}
		case calm < enoughSamples:
		case m.Address != nil:
			if held[uint64(*m.Address)] == calm {
				confirmed = append(confirmed, *found)
			}
		case least > 0:
			m.Size = &least
			confirmed = append(confirmed, m)
		}
	}
	return confirmed, nil
}

// sleep waits for d. It returns the error of ctx if ctx ends first.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// again returns the module in another reading of the views that is the same as a suspect,
// or nil. Without a name, the address distinguishes modules if the suspect has one.
func again(modules []kmodquery.Module, suspect kmodquery.Module) *kmodquery.Module {
	i := slices.IndexFunc(modules, func(m kmodquery.Module) bool {
		if m.Name != "" || suspect.Name != "" || suspect.Address == nil {
			return kmodquery.FolderName(m.Name) == kmodquery.FolderName(suspect.Name)
		}
		return m.Address != nil && *m.Address == *suspect.Address
	})
	if i < 0 {
		return nil
	}
	return &modules[i]
}
