package kmodquery

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// A Cursor is the position of a named, repeated query in the order in which events were
// stored. Events up to After are done. Events after it, up to Position, are held: they
// were given within the holding time, and every call gives them again. Later events, up
// to Last, are new.
type Cursor struct {
	Name     string
	After    int64 // EID
	Position int64 // EID of the last event that was examined
	Last     int64 // EID of the last stored event
	// NewRows and NewBytes bound the new rows that a call may give. A first row that is
	// larger than NewBytes is given alone. If NewRows is 0, none may be given.
	NewRows  int
	NewBytes int64
	// IsLook is set if the cursor belongs to another asker. It then stays where it is.
	IsLook bool
}

// A CursorQuery is the query that a cursor belongs to, as texts that can be kept and sent.
type CursorQuery struct {
	ID     string // identifies the query
	Events string // conditions that the events of its rows meet
	// Asker is the osquery that asks, by its socket; "" if none does.
	Asker string
}

// longText is the length in bytes from which a text of a CursorQuery is shortened. The
// texts are stored and sent with each call, and a query may compare with thousands of hashes.
const longText = 16 << 10

// NewCursorQuery returns the query of the rows of a table that meet conditions, in any
// order: it may change with the version of osquery. events are the conditions that the
// events of its rows meet. They may change with the version of the program.
func NewCursorQuery(table string, conditions, events []Condition) CursorQuery {
	ordered := slices.SortedFunc(slices.Values(conditions), func(a, b Condition) int {
		return strings.Compare(conditionsText([]Condition{a}), conditionsText([]Condition{b}))
	})
	id := conditionsText(ordered)
	if len(id) >= longText {
		id = fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(id)))
	}
	kept := slices.Clone(events) // with fewer conditions, too many events may be counted as unread
	for len(conditionsText(kept)) >= longText {
		longest := slices.MaxFunc(kept, func(a, b Condition) int {
			return len(conditionsText([]Condition{a})) - len(conditionsText([]Condition{b}))
		})
		kept = slices.DeleteFunc(kept, func(c Condition) bool { return c.Column == longest.Column && c.Op == longest.Op })
	}
	return CursorQuery{ID: table + " " + id, Events: conditionsText(kept)}
}

func conditionsText(conditions []Condition) string {
	text, err := json.Marshal(conditions)
	if err != nil {
		panic(err) // their values are numbers and text
	}
	return string(text)
}

// Conditions returns the conditions that the events meet. It returns an error if Events is
// not the text of a NewCursorQuery.
func (q CursorQuery) Conditions() ([]Condition, error) {
	decoder := json.NewDecoder(strings.NewReader(q.Events))
	decoder.UseNumber()
	var conditions []Condition
	if err := decoder.Decode(&conditions); err != nil {
		return nil, fmt.Errorf("parse the conditions of a cursor: %w", err)
	}
	for _, condition := range conditions {
		for i, value := range condition.Values {
			number, ok := value.(json.Number)
			if !ok {
				continue
			}
			if integer, err := number.Int64(); err == nil {
				condition.Values[i] = integer
			} else if condition.Values[i], err = number.Float64(); err != nil {
				return nil, fmt.Errorf("parse the conditions of a cursor: %w", err)
			}
		}
	}
	return conditions, nil
}
