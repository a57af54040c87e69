package loaded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/kmodquery/kmodquery"
)

const (
	// listTime bounds the time for listing the loaded extensions.
	listTime = 20 * time.Second
	// maxList bounds the output in bytes. A kernel has some hundreds of extensions.
	maxList = 4 << 20
	// maxListed bounds the extensions in the list.
	maxListed = 1 << 14
)

// Listed returns the extensions that the kernel lists, without the kernel's own
// components. A call takes up to a second.
func (k *Kexts) Listed(ctx context.Context) ([]kmodquery.Module, error) {
	text, _, err := run(ctx, listTime, maxList, k.programs.Kmutil, "showloaded", "--list-only", "--no-kernel-components")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &kmodquery.NotSupportedError{Missing: "there is no " + k.programs.Kmutil, Need: "macOS 12 or later"}
	}
	if err != nil {
		return nil, fmt.Errorf("list the kernel extensions: %w", err)
	}
	modules, unparsed := parseList(text)
	if len(modules) == 0 {
		return nil, fmt.Errorf("list the kernel extensions: %s lists none", k.programs.Kmutil)
	}
	k.listing.Lock()
	k.unparsed = unparsed
	k.listing.Unlock()
	return modules, nil
}

// listedLine is a line of kmutil showloaded. The extension's author chooses
// the name and the version, which may hold any text:
//
//	index refs address size wired name (version) UUID <indexes of the extensions it uses>
var listedLine = regexp.MustCompile(`^\s*([0-9]+)\s+(-?[0-9]+)\s+(?:0x)?([0-9a-fA-F]{1,16})\s+(?:0x)?([0-9a-fA-F]{1,16})\s+(?:0x)?[0-9a-fA-F]{1,16}\s+(\S.{0,511}\))(?:\s+[0-9A-Fa-f-]{36})?(?:\s+<([0-9 ]*)>)?\s*$`)

// listedRow is how such a line begins.
var listedRow = regexp.MustCompile(`^\s*[0-9]+\s`)

// splitVersion splits "name (version)". The version begins at the bracket that the last one
// closes, or at the last one if none does.
func splitVersion(text string) (name, version string, ok bool) {
	depth, last := 0, -1
	for i := len(text) - 1; i > 0; i-- {
		switch text[i] {
		case ')':
			depth++
		case '(':
			depth--
			if text[i-1] != ' ' {
				break
			}
			if last < 0 {
				last = i
			}
			if depth == 0 {
				return text[:i-1], text[i+1 : len(text)-1], i > 1
			}
		}
	}
	if last < 2 {
		return "", "", false
	}
	return text[:last-1], text[last+1 : len(text)-1], true
}

// parseList returns the extensions of a list, and the lines that begin like one of an
// extension and do not parse. It ignores all other lines, such as the heading.
func parseList(text string) (modules []kmodquery.Module, unparsed []string) {
	var indexes []string // of the modules
	seen := map[string]bool{}
	users := map[string][]string{} // by index
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		fields, name, version, ok := listedLine.FindStringSubmatch(line), "", "", false
		if fields != nil {
			name, version, ok = splitVersion(fields[5])
		}
		if !ok {
			if listedRow.MatchString(line) {
				unparsed = append(unparsed, line)
			}
			continue
		}
		if seen[name] || len(modules) == maxListed {
			continue
		}
		m := kmodquery.Module{Name: name, Version: version, State: "Live", Views: []string{kmodquery.ViewShowloaded}}
		if n, err := strconv.ParseInt(fields[2], 10, 64); err == nil {
			m.Refs = &n
		}
		if n, err := strconv.ParseUint(fields[3], 16, 64); err == nil && n != 0 { // 0 means that the kernel hides the address
			m.Address = new(int64(n))
		}
		if n, err := strconv.ParseInt(fields[4], 16, 64); err == nil {
			m.Size = &n
		}
		seen[m.Name] = true
		for _, index := range strings.Fields(fields[6]) {
			users[index] = append(users[index], m.Name)
		}
		modules, indexes = append(modules, m), append(indexes, fields[1])
	}
	for i, index := range indexes {
		modules[i].UsedBy = users[index]
	}
	return modules, unparsed
}
