package views

import (
	"bytes"
	"cmp"
	"context"
	"io"
	"slices"
	"sort"
	"strconv"

	"github.com/kmodquery/kmodquery"
)

// A region is a part of the kernel's virtual memory that was allocated for modules.
type region struct {
	address uint64 // 0 if the kernel does not show it
	size    int64  // in bytes, without its guard page
	shared  bool   // regions of other code may have the same name
}

// loaders are the functions of the module loader that /proc/vmallocinfo may name as the
// caller that allocated a region, depending on the compiler's inlining. Regions of BPF,
// kprobes and ftrace have other names. This is the case up to 6.12. There a module has one
// region, or from 6.4 on one for each kind of memory. Their sizes without guard pages add
// up to the module's size in the list.
var loaders = []string{"load_module", "layout_and_allocate", "move_module", "module_memory_alloc"}

// execmemRW is the name of the regions that hold modules' data from 6.17 on. If the
// processor and the kernel support a cache of executable memory, the text of modules is in
// larger regions (execmem_alloc), which modules, BPF and others share. Without the cache,
// text and ftrace's trampolines are in regions of this name too. Between 6.12 and 6.17 all
// regions have the name execmem_alloc, and those of modules cannot be distinguished.
const execmemRW = "execmem_alloc_rw"

// allocators are the names of all regions that are parsed.
var allocators = append(slices.Clone(loaders), execmemRW)

// parseVmallocinfo returns the regions of modules' memory in /proc/vmallocinfo:
//
//	0xffffffffc02c6000-0xffffffffc02cb000   20480 load_module+0xd97/0x2630 pages=4 vmalloc N0=4
//
// After a function of a module the kernel writes the module's name in brackets. Such a
// function may have any name, and its region is not one that the loader allocated.
//
// Each region ends with a guard page. The addresses are real only if
// kernel.kptr_restrict is 1. If it is 0 the kernel shows hashes of 32 bits instead, and if
// it is 2 zeros, even to root.
func parseVmallocinfo(ctx context.Context, r io.Reader, page int64) ([]region, error) {
	var regions []region
	err := eachLine(ctx, r, func(line []byte) error {
		// A function's name may have other white space than a blank.
		fields := bytes.FieldsFunc(line, func(c rune) bool { return c == ' ' })
		if len(fields) < 4 || !bytes.HasPrefix(fields[3], []byte("pages=")) {
			return nil
		}
		caller, _, _ := bytes.Cut(fields[2], []byte("+"))
		isLoaders := slices.Contains(loaders, string(caller))
		if !isLoaders && string(caller) != execmemRW {
			return nil
		}
		size, err := strconv.ParseInt(string(fields[1]), 10, 64)
		if err != nil || size <= page {
			return nil
		}
		if len(regions) == maxRegions {
			return errTooMany
		}
		found := region{size: size - page, shared: !isLoaders}
		start, _, _ := bytes.Cut(fields[0], []byte("-"))
		if address := hexNumber(string(start)); address >= kernelSpace {
			found.address = address
		}
		regions = append(regions, found)
		return nil
	})
	return regions, err
}

const (
	// kernelSpace is the lowest address of the kernel's half.
	kernelSpace = 1 << 63
	// maxRegions bounds the number of regions. Each module has up to seven.
	maxRegions = 8 * maxNames
)

// A memory holds the regions of modules in the order of their addresses, with their owners.
type memory struct {
	regions []region
	owners  []string // owner of the region at the same index; "" if unknown
}

func newMemory(regions []region) *memory {
	slices.SortFunc(regions, func(a, b region) int { return cmp.Compare(a.address, b.address) })
	return &memory{regions: regions, owners: make([]string, len(regions))}
}

// hasAddresses reports whether the kernel shows the addresses of the regions.
func (m *memory) hasAddresses() bool {
	return len(m.regions) > 0 && m.regions[0].address != 0
}

// own records the owner of the region with an address, and reports whether there is such a
// region.
func (m *memory) own(address uint64, owner string) bool {
	at, ok := m.at(address)
	if ok {
		m.owners[at] = owner
	}
	return ok
}

// disown removes an owner.
func (m *memory) disown(owner string) {
	for i := range m.owners {
		if m.owners[i] == owner {
			m.owners[i] = ""
		}
	}
}

// at returns the index of the region with an address.
func (m *memory) at(address uint64) (int, bool) {
	at := sort.Search(len(m.regions), func(i int) bool { return m.regions[i].address > address }) - 1
	if at < 0 {
		return 0, false
	}
	r := m.regions[at]
	return at, r.address != 0 && address-r.address < uint64(r.size)
}

// free returns the regions without an owner, as modules without a name. Regions that only a
// guard page separates belong to one module. Shared regions are omitted unless isData is
// true, which means that only modules have them.
func (m *memory) free(page int64, isData bool) []kmodquery.Module {
	var modules []kmodquery.Module
	var end uint64
	for i, r := range m.regions {
		if m.owners[i] != "" || r.address == 0 || r.shared && !isData {
			continue
		}
		if len(modules) > 0 && r.address == end {
			*modules[len(modules)-1].Size += r.size
		} else {
			modules = append(modules, kmodquery.Module{
				Address: new(int64(r.address)), Size: new(r.size), Views: []string{kmodquery.ViewVmallocinfo},
			})
		}
		end = r.address + uint64(r.size+page)
	}
	return modules
}

// of returns the size of an owner's regions, in bytes.
func (m *memory) of(owner string) int64 {
	var bytes int64
	for i, r := range m.regions {
		if m.owners[i] == owner {
			bytes += r.size
		}
	}
	return bytes
}

// excess returns the bytes by which the regions exceed the modules. It returns 0 if there
// are shared regions, which may belong to other code.
func excess(regions []region, modules []kmodquery.Module) int64 {
	var bytes int64
	for _, r := range regions {
		if r.shared {
			return 0
		}
		bytes += r.size
	}
	for i := range modules {
		if modules[i].Size != nil {
			bytes -= *modules[i].Size
		}
	}
	return max(bytes, 0)
}
