package views

import (
	"bytes"
	"context"
	"io"
	"strconv"
	"strings"
)

// A mention is a module that a list of symbols names.
type mention struct {
	name  string
	first uint64 // the lowest address of its symbols; 0 if none is shown
}

// parseKallsyms returns the modules that /proc/kallsyms names, and calls visit with each
// address of their symbols:
//
//	ffffffffc0000000 t name	[module]
//
// Code that the kernel generates while it runs, such as [bpf] and [__builtin__ftrace], is
// not a module. parseKallsyms calls visit with an empty name for its addresses.
func parseKallsyms(ctx context.Context, r io.Reader, visit visitor) (map[string]*mention, error) {
	return parseMentions(ctx, r, "\t[", true, visit)
}

// parseFunctions returns the modules that tracefs names in available_filter_functions, or
// in available_filter_functions_addrs, whose lines begin with an address:
//
//	ffffffffc0000000 name [module]
func parseFunctions(
	ctx context.Context, r io.Reader, hasAddress bool, visit visitor,
) (map[string]*mention, error) {
	return parseMentions(ctx, r, " [", hasAddress, func(name string, address uint64) {
		if name != "" {
			visit(name, address)
		}
	})
}

// A visitor is called with an address and the name of the module to which it belongs.
type visitor func(name string, address uint64)

// parseMentions takes the longest end of a line that can be a name for the name, so that
// it does not confuse a module with another one whose name is the end of the first one's.
// No compiler generates a symbol that contains the opening.
func parseMentions(
	ctx context.Context, r io.Reader, open string, hasAddress bool, visit visitor,
) (map[string]*mention, error) {
	mentions := map[string]*mention{}
	opening := []byte(open)
	err := eachLine(ctx, r, func(line []byte) error {
		// This is the fast path for hundreds of thousands of lines without a module.
		if len(line) == 0 || line[len(line)-1] != ']' {
			return nil
		}
		_, name, found := bytes.Cut(line[:len(line)-1], opening)
		for found && len(name) > maxName {
			_, name, found = bytes.Cut(name, opening)
		}
		if !found {
			return nil
		}
		var address uint64
		if hasAddress {
			digits, _, _ := bytes.Cut(line, []byte(" "))
			address = parseHex(string(digits))
		}
		if !isModule(name) {
			if address != 0 {
				visit("", address)
			}
			return nil
		}
		m := mentions[string(name)]
		if m == nil {
			if len(mentions) == maxNames {
				return errTooMany
			}
			m = &mention{name: string(name)}
			mentions[m.name] = m
		}
		if address != 0 {
			if m.first == 0 || address < m.first {
				m.first = address
			}
			visit(m.name, address)
		}
		return nil
	})
	return mentions, err
}

// builtin is the prefix of kallsyms' names for code that the kernel generates while it
// runs.
const builtin = "__builtin__"

func isModule(name []byte) bool {
	return len(name) > 0 && len(name) <= maxName && string(name) != "bpf" && !strings.HasPrefix(string(name), builtin)
}

// parseHex returns the value of hexadecimal digits, or 0 if the text is anything else.
func parseHex(digits string) uint64 {
	value, err := strconv.ParseUint(digits, 16, 64)
	if err != nil {
		return 0
	}
	return value
}
