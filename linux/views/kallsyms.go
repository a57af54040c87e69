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
	first uint64 // the lowest address of its symbols; 0 if none is shown
}

// parseKallsyms returns the modules that /proc/kallsyms names, and calls visit with each
// address of their symbols:
//
//	ffffffffc0000000 t name	[module]
//
// Code that the kernel generates while it runs, such as [bpf] and [__builtin__ftrace], is
// not a module. parseKallsyms calls builtins with its addresses.
func parseKallsyms(ctx context.Context, r io.Reader, visit func(name string, address uint64), builtins func(address uint64)) (map[string]*mention, error) {
	return parseMentions(ctx, r, "\t[", hexField, visit, builtins)
}

// parseFunctions returns the modules that tracefs names in available_filter_functions, or
// in available_filter_functions_addrs, whose lines begin with an address:
//
//	ffffffffc0000000 name [module]
func parseFunctions(ctx context.Context, r io.Reader, hasAddress bool, visit func(name string, address uint64)) (map[string]*mention, error) {
	address := func([]byte) uint64 { return 0 }
	if hasAddress {
		address = hexField
	}
	return parseMentions(ctx, r, " [", address, visit, func(uint64) {})
}

// parseMentions takes the longest end of a line that can be a name for the name, so that
// it does not confuse a module with another one whose name is the end of the first one's.
// No compiler generates a symbol that contains the opening.
func parseMentions(ctx context.Context, r io.Reader, open string, address func([]byte) uint64, visit func(name string, address uint64), builtins func(address uint64)) (map[string]*mention, error) {
	mentions := map[string]*mention{}
	opening := []byte(open)
	var last *mention
	lastName := ""
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
		if !isModule(name) {
			if a := address(line); a != 0 {
				builtins(a)
			}
			return nil
		}
		if last == nil || string(name) != lastName {
			lastName = string(name)
			if last = mentions[lastName]; last == nil {
				if len(mentions) == maxNames {
					return errTooMany
				}
				last = &mention{}
				mentions[lastName] = last
			}
		}
		if a := address(line); a != 0 {
			if last.first == 0 || a < last.first {
				last.first = a
			}
			visit(lastName, a)
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

// hexField returns the number at the beginning of a line; 0 if there is none.
func hexField(line []byte) uint64 {
	end := bytes.IndexByte(line, ' ')
	if end < 0 || end > 16 {
		return 0
	}
	value, err := strconv.ParseUint(string(line[:end]), 16, 64)
	if err != nil {
		return 0
	}
	return value
}
