package views

import (
	"bytes"
	"context"
	"io"
	"slices"
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
// not a module. parseKallsyms calls visit with an empty name for its addresses. It omits
// lines of another form, and returns what those show and what may be forged in ftrace.
func parseKallsyms(ctx context.Context, r io.Reader, visit visitor) (map[string]*mention, forgery, error) {
	var found forgery
	mentions, err := parseMentions(ctx, r, "\t[", true, visit, func(line []byte) bool {
		isSymbol := isSymbol(line)
		if isSymbol && !bytes.Contains(line, []byte(ftraceOpening)) {
			return true
		}
		if found.line == "" {
			found.line = string(line[:min(len(line), maxName)])
		}
		found.ofMemory = found.ofMemory ||
			!isSymbol && slices.ContainsFunc(allocators, func(name string) bool { return bytes.Contains(line, []byte(name)) })
		return isSymbol
	})
	return mentions, found, err
}

// ftraceOpening precedes a module's name in ftrace's lines. In a line of kallsyms it comes from
// a name that a module's file chose.
const ftraceOpening = " ["

// A forgery is what lines of kallsyms show that the kernel does not write. A module's file
// chooses the names of its symbols, any bytes except NUL, so a name can look like further
// lines of each view that prints it: kallsyms, ftrace, and vmallocinfo, which prints the
// function that allocated a region. kallsyms prints all symbols of every listed module. A
// name that forges a line of another view therefore has a blank there, where the kernel writes
// none, or a bracket after one.
type forgery struct {
	line     string   // the beginning of the first one; "" if there is none
	ofMemory bool     // one of them can be a region of modules' memory in vmallocinfo
	names    []string // modules that were dropped because kallsyms names them and nothing proves them
	err      error    // why kallsyms could not be read completely
}

// isSymbol reports whether a line of kallsyms has the kernel's form, and a symbol's name
// without blanks.
func isSymbol(line []byte) bool {
	const digits = 16
	if len(line) < digits+4 || line[digits] != ' ' || line[digits+2] != ' ' {
		return false
	}
	for _, c := range line[:digits] {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	name := line[digits+3:]
	if name[len(name)-1] == ']' {
		name, _, _ = bytes.Cut(name, []byte("\t["))
	}
	return len(name) > 0 && bytes.IndexByte(name, ' ') < 0 && bytes.IndexByte(name, '\t') < 0
}

// parseFunctions returns the modules that tracefs names in available_filter_functions, or
// in available_filter_functions_addrs, whose lines begin with an address:
//
//	ffffffffc0000000 name [module]
func parseFunctions(
	ctx context.Context, r io.Reader, hasAddress bool, visit visitor,
) (map[string]*mention, error) {
	visitModule := func(name string, address uint64) {
		if name != "" {
			visit(name, address)
		}
	}
	return parseMentions(ctx, r, ftraceOpening, hasAddress, visitModule, func([]byte) bool { return true })
}

// A visitor is called with an address and the name of the module to which it belongs.
type visitor func(name string, address uint64)

// parseMentions takes the longest end of a line that can be a name for the name, so that
// it does not confuse a module with another one whose name is the end of the first one's.
// It omits the lines of which accept returns false.
func parseMentions(
	ctx context.Context, r io.Reader, open string, hasAddress bool, visit visitor, accept func(line []byte) bool,
) (map[string]*mention, error) {
	mentions := map[string]*mention{}
	opening := []byte(open)
	err := eachLine(ctx, r, func(line []byte) error {
		// This is the fast path for hundreds of thousands of lines without a module.
		if !accept(line) || len(line) == 0 || line[len(line)-1] != ']' {
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
