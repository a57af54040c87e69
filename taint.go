package kmodquery

import "strings"

// taintLetters are the letters of the TAINT_ bits in their order (kernel/panic.c). G
// stands for an unset P.
const taintLetters = "PFSRMBUDAWCIOELKXTNJ"

// TaintMask returns the mask for the letters with which the kernel shows a module's
// taints. It ignores other characters, such as the + and - of a module that is being
// loaded or unloaded.
func TaintMask(letters string) int64 {
	var mask int64
	for _, letter := range letters {
		if bit := strings.IndexRune(taintLetters, letter); bit >= 0 {
			mask |= 1 << bit
		}
	}
	return mask
}

// TaintFlags returns the kernel's letters for a mask of taints, in the order of the bits,
// and ? for each bit that has no known letter. It is "" for 0 and for nil.
func TaintFlags(mask *int64) string {
	if mask == nil {
		return ""
	}
	var flags strings.Builder
	for bit := range 64 {
		switch {
		case *mask&(1<<bit) == 0:
		case bit < len(taintLetters):
			flags.WriteByte(taintLetters[bit])
		default:
			flags.WriteByte('?')
		}
	}
	return flags.String()
}
