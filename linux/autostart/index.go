//go:build linux

package autostart

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
)

const (
	// maxIndex bounds an index of depmod, in bytes. Distributions' largest has 2 MB.
	maxIndex = 32 << 20
	// maxNodes bounds the nodes and values of an index that are read, maxKey a key or a value,
	// in bytes, and maxKeys all of them.
	maxNodes = 1 << 19
	maxKey   = 64 << 10
	maxKeys  = 64 << 20 // of all indices of a reading together
)

// An index is one of the files that depmod(8) writes for kmod, such as modules.dep.bin: a
// tree of keys with values, in big-endian numbers.
type index map[string][]string

var errIndex = errors.New("it is not an index that kmod reads")

// Parts that a node has, in the highest bits of its offset.
const (
	nodePrefix   = 1 << 31
	nodeValues   = 1 << 30
	nodeChildren = 1 << 29
	offsetMask   = 1<<28 - 1
)

// parseIndex parses an index. A node that is out of bounds, or more nodes than there can be,
// are an error, and what was read before it is returned too.
//
// It keeps room bytes of keys and values at most, and reduces room.
func parseIndex(data []byte, room *int) (index, error) {
	const magic, major = 0xB007F457, 2
	if len(data) < 12 || binary.BigEndian.Uint32(data) != magic || binary.BigEndian.Uint16(data[4:]) != major {
		return nil, errIndex
	}
	w := walk{data: data, keys: index{}, left: maxNodes, room: room}
	err := w.node(binary.BigEndian.Uint32(data[8:]), nil)
	return w.keys, err
}

type walk struct {
	data []byte
	keys index
	left int  // nodes and values that may still be read
	room *int // bytes of keys and values that may still be read
}

// take reports whether a node or value with so many bytes may still be read.
func (w *walk) take(bytes int) bool {
	w.left--
	*w.room -= bytes
	return w.left >= 0 && *w.room >= 0
}

// node reads the nodes below an offset, whose keys begin with prefix.
func (w *walk) node(at uint32, prefix []byte) error {
	offset := int(at & offsetMask)
	if at&^offsetMask == 0 {
		return nil // such as the root of an index without keys
	}
	if offset == 0 || offset >= len(w.data) || len(prefix) > maxKey || !w.take(len(prefix)) {
		return errIndex
	}
	rest := w.data[offset:]
	if at&nodePrefix != 0 {
		text, after, ok := cutText(rest)
		if !ok {
			return errIndex
		}
		prefix, rest = append(prefix[:len(prefix):len(prefix)], text...), after
	}
	var children []byte
	var first byte
	if at&nodeChildren != 0 {
		if len(rest) < 2 || rest[0] > rest[1] || rest[1] >= 128 {
			return errIndex
		}
		first = rest[0]
		size := 4 * (int(rest[1]-first) + 1)
		if rest = rest[2:]; len(rest) < size {
			return errIndex
		}
		children, rest = rest[:size], rest[size:]
	}
	if at&nodeValues != 0 {
		if err := w.values(string(prefix), rest); err != nil {
			return err
		}
	}
	for i := 0; i < len(children); i += 4 {
		if child := binary.BigEndian.Uint32(children[i:]); child != 0 {
			if err := w.node(child, append(prefix[:len(prefix):len(prefix)], first+byte(i/4))); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *walk) values(key string, rest []byte) error {
	if len(rest) < 4 {
		return errIndex
	}
	count := binary.BigEndian.Uint32(rest)
	rest = rest[4:]
	for ; count > 0; count-- {
		if len(rest) < 4 {
			return errIndex
		}
		value, after, ok := cutText(rest[4:]) // after the priority
		if !ok || !w.take(len(key)+len(value)) {
			return errIndex
		}
		rest = after
		if opened := strings.LastIndexByte(key, '['); opened < 0 || strings.IndexByte(key[opened:], ']') > 0 { // depmod writes no other
			w.keys[key] = append(w.keys[key], value)
		}
	}
	return nil
}

// cutText returns the text up to a NUL, and what follows it.
func cutText(data []byte) (text string, after []byte, ok bool) {
	if i := bytes.IndexByte(data[:min(len(data), maxKey)], 0); i >= 0 {
		return string(data[:i]), data[i+1:], true
	}
	return "", nil, false
}

// match returns the values of the keys that match a name, where the keys are patterns. They
// are in the order of the alphabet.
func (x index) match(name string, isLate func() bool) []string {
	var values []string
	looked := 0
	for pattern, of := range x {
		if looked++; looked%64 == 0 && isLate() {
			break
		}
		if strings.HasPrefix(name, literal(pattern)) && fnmatch(pattern, name) {
			values = append(values, of...)
		}
	}
	slices.Sort(values)
	return slices.Compact(values)
}
