package sqlite

import (
	"encoding/binary"
	"hash/crc32"
	"slices"
	"strings"

	"github.com/kmodquery/kmodquery"
)

// groups is into how many groups the columns are divided. Each has a sum of its
// own, so that who reads few columns need not read all to know that they are
// what was written.
// The last one is of eid and time alone, which are always read and therefore in
// the sums of all groups.
const (
	groups    = 9
	headGroup = groups - 1
	sumsSize  = 4 * groups
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// groupOf is the group of a column. It comes from its name alone, so that a
// column that is added changes no sum of rows without it.
func groupOf(name string) int {
	if name == "eid" || name == "time" {
		return headGroup
	}
	return int(crc32.Checksum([]byte(name), castagnoli) % headGroup)
}

// A summer sums up the values of some columns of a row.
type summer struct {
	eid, time int // places of the two among the columns
	members   [groups][]member
	buffer    []byte
}

// A member is a column of a group.
type member struct {
	name string
	at   int // place among the columns
}

// newSummer returns a summer for rows of these columns, which must be whole
// groups. It must not be used concurrently.
func newSummer(columns []kmodquery.Column) *summer {
	s := &summer{}
	for at, column := range columns {
		switch column.Name {
		case "eid":
			s.eid = at
		case "time":
			s.time = at
		default:
			group := groupOf(column.Name)
			s.members[group] = append(s.members[group], member{column.Name, at})
		}
	}
	for _, members := range s.members {
		// Not the order of the fields, which may change.
		slices.SortFunc(members, func(a, b member) int { return strings.Compare(a.name, b.name) })
	}
	return s
}

// sum returns the sums of all groups, one after another. Those of groups of which
// a column is not here are of no use. The values are int64, string or nil.
func (s *summer) sum(values []any) []byte {
	sums := make([]byte, 0, sumsSize)
	for group := range s.members {
		sums = binary.BigEndian.AppendUint32(sums, s.sumOf(group, values))
	}
	return sums
}

func (s *summer) sumOf(group int, values []any) uint32 {
	text := append(s.buffer[:0], byte(group))
	text = appendValue(text, values[s.eid])
	text = appendValue(text, values[s.time])
	for _, member := range s.members[group] {
		if value := values[member.at]; value != nil {
			text = append(append(text, member.name...), 0)
			text = appendValue(text, value)
		}
	}
	s.buffer = text
	return crc32.Checksum(text, castagnoli)
}

// holds reports whether the values are those that the sums are of.
func (s *summer) holds(values []any, sums []byte) bool {
	if len(sums) != sumsSize {
		return false
	}
	for group, members := range s.members {
		if (len(members) > 0 || group == headGroup) &&
			binary.BigEndian.Uint32(sums[4*group:]) != s.sumOf(group, values) {
			return false
		}
	}
	return true
}

// appendValue appends a value so that no two look alike. Of a type that no event
// has it is the type alone, as the sums of what was written are of none.
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

// sumOfPosition is what a source's position is kept with.
func sumOfPosition(source, position string) int64 {
	return int64(crc32.Checksum(appendValue(appendValue(nil, source), position), castagnoli))
}
