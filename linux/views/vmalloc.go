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

// A region is a piece of the kernel's virtual memory that was made for modules.
type region struct {
	address uint64 // 0 where the kernel does not tell
	size    int64  // without its guard page
	shared  bool   // regions of other code may look alike
}

// loaders are the functions of the module loader that /proc/vmallocinfo may name
// as those that had a region made, depending on what the compiler inlined. What
// BPF, kprobes and ftrace have made bears other names. So it is up to 6.12,
// where a module has one region, or from 6.4 on one for each kind of memory, and
// their sizes without guard pages add up to the size that the kernel tells.
var loaders = []string{"load_module", "layout_and_allocate", "move_module", "module_memory_alloc"}

// execmemRW is the name of the regions that hold modules' data from 6.17 on.
// Text comes out of larger regions (execmem_alloc) that modules, BPF and others
// share, where the processor and the kernel have such a cache; where they do not
// have it, text and ftrace's trampolines have regions of this name too. Between,
// all have the name execmem_alloc and nothing can be told.
const execmemRW = "execmem_alloc_rw"

// parseVmallocinfo reads the regions of modules' memory from /proc/vmallocinfo:
//
//	0xffffffffc02c6000-0xffffffffc02cb000   20480 load_module+0xd97/0x2630 pages=4 vmalloc N0=4
//
// Each ends in a guard page. With kernel.kptr_restrict at 0 the kernel shows
// hashes of 32 bits for addresses, and at 2 zeros, to root too: only at 1 are
// they real.
func parseVmallocinfo(ctx context.Context, r io.Reader, page int64) ([]region, error) {
	var regions []region
	err := eachLine(ctx, r, func(line []byte) error {
		fields := bytes.Fields(line)
		if len(fields) < 3 {
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
		if start, _, ok := bytes.Cut(fields[0], []byte("-")); ok {
			if address := hexNumber(string(start)); address >= kernelSpace {
				found.address = address
			}
		}
		regions = append(regions, found)
		return nil
	})
	return regions, err
}

const (
	// kernelSpace is where the kernel's half of the addresses begins.
	kernelSpace = 1 << 63
	// maxRegions bounds the regions that are kept. Each module has up to seven.
	maxRegions = 8 * maxNames
)

// A memory is the regions of modules by address, and who owns them.
type memory struct {
	regions []region
	owners  []string // whose something in the region of the same place is; "" where that is not known
}

func newMemory(regions []region) *memory {
	slices.SortFunc(regions, func(a, b region) int { return cmp.Compare(a.address, b.address) })
	return &memory{regions: regions, owners: make([]string, len(regions))}
}

// hasAddresses reports whether the kernel tells where the regions are.
func (m *memory) hasAddresses() bool {
	return len(m.regions) > 0 && m.regions[0].address != 0
}

// own notes that an address belongs to somebody, and reports whether it is in
// one of the regions.
func (m *memory) own(address uint64, owner string) bool {
	at, ok := m.at(address)
	if ok {
		m.owners[at] = owner
	}
	return ok
}

// at finds the region that an address lies in.
func (m *memory) at(address uint64) (int, bool) {
	at := sort.Search(len(m.regions), func(i int) bool { return m.regions[i].address > address }) - 1
	if at < 0 {
		return 0, false
	}
	r := m.regions[at]
	return at, r.address != 0 && address-r.address < uint64(r.size)
}

// free are the regions that nobody owns, as modules without a name. Neighbours,
// which only a guard page divides, are one module's. Regions that may be other
// code's are left out unless isData says that no such code has one.
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

// of is the size of what an owner has.
func (m *memory) of(owner string) int64 {
	var bytes int64
	for i, r := range m.regions {
		if m.owners[i] == owner {
			bytes += r.size
		}
	}
	return bytes
}

// excess is the memory that regions hold beyond that of the modules, as a module
// without a name. There is none where regions may be other code's.
func excess(regions []region, modules []kmodquery.Module) []kmodquery.Module {
	var bytes int64
	for _, r := range regions {
		if r.shared {
			return nil
		}
		bytes += r.size
	}
	for i := range modules {
		if modules[i].Size != nil {
			bytes -= *modules[i].Size
		}
	}
	if bytes <= 0 {
		return nil
	}
	return []kmodquery.Module{{Size: &bytes, Views: []string{kmodquery.ViewVmallocinfo}}}
}
