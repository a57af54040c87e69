package views

import (
	"context"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"

	"github.com/kmodquery/kmodquery"
)

// maxName is the longest name of a module (MODULE_NAME_LEN without its end).
const maxName = 55

// listed reads the kernel's own list. A read hands out a page or chunk bytes of
// it, whichever is less, and forgets the lock between two: when a module that
// stands before goes in that moment, the next one is left out. So two readings
// with different chunks are never wrong about the same module.
func (v *Views) listed(ctx context.Context, chunk int) ([]kmodquery.Module, error) {
	file, err := os.Open(v.path(procModules))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return parseListed(ctx, chunked{file, chunk})
}

// chunked reads at most size bytes at once.
type chunked struct {
	io.Reader
	size int
}

func (c chunked) Read(p []byte) (int, error) {
	return c.Reader.Read(p[:min(len(p), c.size)])
}

// parseListed reads /proc/modules. The kernel writes a name as it is, whatever
// its bytes: a line that is no whole one is the beginning of a name that has a
// newline.
func parseListed(ctx context.Context, r io.Reader) ([]kmodquery.Module, error) {
	var modules []kmodquery.Module
	seen := map[string]bool{}
	begun := ""
	err := eachLine(ctx, r, func(line []byte) error {
		text := begun + string(line)
		m, ok := parseListedLine(text)
		if !ok && begun != "" {
			m, ok = parseListedLine(string(line))
		}
		if !ok && len(text) < maxName {
			begun = text + "\n"
			return nil
		}
		begun = ""
		// A module that stands at the end of one page is at the beginning of the
		// next when another one came between.
		if !ok || seen[m.Name] {
			return nil
		}
		if len(modules) == maxNames {
			return errTooMany
		}
		seen[m.Name] = true
		modules = append(modules, m)
		return nil
	})
	return modules, err
}

// listedLine is a line of /proc/modules:
//
//	name size refs users, Live 0xffffffffc0000000 (OE)
//
// Names may have spaces. The longest beginning is taken for the name, so that no
// module's name makes its line another one's.
var listedLine = regexp.MustCompile(`(?s)^(.+) ([0-9]+) (-?[0-9]+|-) (-|.*,) (Live|Loading|Unloading) 0x([0-9a-f]{1,16})(?: \(([^ ]*)\))?$`)

func parseListedLine(line string) (m kmodquery.Module, ok bool) {
	fields := listedLine.FindStringSubmatch(line)
	if fields == nil || len(fields[1]) > maxName {
		return m, false
	}
	size, sizeErr := strconv.ParseInt(fields[2], 10, 64)
	address, addressErr := strconv.ParseUint(fields[6], 16, 64)
	if sizeErr != nil || addressErr != nil {
		return m, false
	}
	m = kmodquery.Module{Name: fields[1], Size: &size, State: fields[5], Taints: new(taintMask(fields[7]))}
	if address != 0 {
		m.Address = new(int64(address))
	}
	// A kernel that unloads nothing counts nothing and writes a dash.
	if refs, err := strconv.ParseInt(fields[3], 10, 64); err == nil {
		m.Refs = &refs
	}
	for user := range strings.SplitSeq(strings.TrimSuffix(fields[4], ","), ",") {
		if user != "-" && user != "[permanent]" { // none, and a module without an exit
			m.UsedBy = append(m.UsedBy, user)
		}
	}
	return m, true
}
