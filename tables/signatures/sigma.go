package signatures

import (
	"regexp"
	"strings"
)

// matching returns a selection of a Sigma rule: the field matches one of the expressions.
func matching(name, field string, expressions ...string) string {
	var b strings.Builder
	b.WriteString(name + ":\n  " + field + "|re:\n")
	for _, e := range expressions {
		b.WriteString("    - '" + strings.ReplaceAll(e, "'", "''") + "'\n")
	}
	return b.String()
}

// Expressions for what baseOf says of a whole path.
const (
	hiddenFile  = `/\.[^/]*$`
	wrappedFile = `^/nix/store/.*/\.[^/]+-wrapped_*$`
)

// baseIn returns an expression of the paths whose base matches an expression of whole names.
func baseIn(names *regexp.Regexp) string {
	name := strings.Trim(names.String(), "^$")
	return `(^|/)` + name + `$|^/nix/store/.*/\.` + name + `-wrapped_*$`
}

// ancestorIn returns an expression of lists of ancestors, in JSON, of which one has such a base.
func ancestorIn(names *regexp.Regexp) string {
	name := strings.Trim(names.String(), "^$")
	return `"path":"([^"]*/)?` + name + `"|"path":"/nix/store/[^"]*/\.` + name + `-wrapped_*"`
}

// hiddenAncestor is the expression of lists of which one is a hidden file, but for those in
// /nix, where wrapped programs look like one.
const hiddenAncestor = `"path":"(/([^n"/]|n[^i"/]|ni[^x"/])[^"]*)?/\.([^."/][^"/]*|\.[^"/]+)"`
