package sqlite

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"hash/crc32"
	"slices"
	"strings"

	"github.com/kmodquery/kmodquery"
)

// The columns are divided into groups with a checksum each, so that a query of few
// columns verifies them without reading all. The last group has only eid and time,
// which every query reads and every checksum covers.
const (
	groups       = 9
	keyGroup     = groups - 1
	checksumSize = 4 * groups
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// groupOf returns the group of a column. It depends on the column's name only, so
// that a new column leaves the checksums of rows without it unchanged.
func groupOf(name string) int {
	if name == "eid" || name == "time" {
		return keyGroup
	}
	return int(crc32.Checksum([]byte(name), castagnoli) % keyGroup)
}

// A checksummer computes the checksums of rows. It must not be used concurrently.
type checksummer struct {
	eid, time int // indexes of the two among the columns
	members   [groups][]member
	buffer    []byte
	mac       hash.Hash // nil without a key
}

// A member is a column of a group.
type member struct {
	name  string
	index int // among the columns
}

// newChecksummer returns a checksummer for rows of these columns, which must be whole
// groups. With a key it computes HMACs too, and the columns must be all.
func newChecksummer(columns []kmodquery.Column, key []byte) *checksummer {
	c := &checksummer{}
	if key != nil {
		c.mac = hmac.New(sha256.New, key)
	}
	for i, column := range columns {
		switch column.Name {
		case "eid":
			c.eid = i
		case "time":
			c.time = i
		default:
			group := groupOf(column.Name)
			c.members[group] = append(c.members[group], member{column.Name, i})
		}
	}
	for _, members := range c.members {
		// The order of the fields may change in another version.
		slices.SortFunc(members, func(a, b member) int { return strings.Compare(a.name, b.name) })
	}
	return c
}

// of returns the checksums of all groups, concatenated, and, with a key, the HMAC of the row
// of this kind. The checksum of a group whose columns are not all there is meaningless. The
// values are int64, string or nil.
func (c *checksummer) of(values []any, kind int64) (sums, mac []byte) {
	sums = make([]byte, 0, checksumSize)
	if c.mac != nil {
		c.mac.Reset()
	}
	for group := range c.members {
		sums = binary.BigEndian.AppendUint32(sums, c.ofGroup(group, values))
		if c.mac != nil {
			c.mac.Write(c.buffer)
		}
	}
	if c.mac != nil {
		c.mac.Write(appendValue(c.buffer[:0], kind))
		mac = c.mac.Sum(nil)
	}
	return sums, mac
}

func (c *checksummer) ofGroup(group int, values []any) uint32 {
	text := append(c.buffer[:0], byte(group))
	text = appendValue(text, values[c.eid])
	text = appendValue(text, values[c.time])
	for _, member := range c.members[group] {
		if value := values[member.index]; value != nil {
			text = append(append(text, member.name...), 0)
			text = appendValue(text, value)
		}
	}
	c.buffer = text
	return crc32.Checksum(text, castagnoli)
}

// matches reports whether the checksums are those of the values. It does not compare the
// HMAC, which only [Store.Verify] does: a query may read some of the columns, and a reader
// has no key.
func (c *checksummer) matches(values []any, sums []byte) bool {
	if len(sums) != checksumSize {
		return false
	}
	for group, members := range c.members {
		if (len(members) > 0 || group == keyGroup) &&
			binary.BigEndian.Uint32(sums[4*group:]) != c.ofGroup(group, values) {
			return false
		}
	}
	return true
}

// appendValue appends an unambiguous encoding of a value. Values of types that no event
// has are encoded as "?", which matches no stored checksum.
func appendValue(text []byte, value any) []byte {
	switch value := value.(type) {
	case int64:
		return binary.BigEndian.AppendUint64(append(text, 'i'), uint64(value))
	case string:
		return append(binary.BigEndian.AppendUint32(append(text, 't'), uint32(len(value))), value...)
	case nil:
		return append(text, 'n')
	}
	return append(text, '?')
}

// positionChecksum returns the checksum that is stored with a source's position.
func positionChecksum(source, position string) int64 {
	return int64(crc32.Checksum(appendValue(appendValue(nil, source), position), castagnoli))
}
