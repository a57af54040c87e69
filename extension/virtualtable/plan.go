package virtualtable

import (
	"encoding/json"
	"fmt"
	"slices"

	"modernc.org/sqlite/vtab"
)

// operators maps constraint operators to the numbers that osquery passes on, which are
// SQLite's own.
var operators = map[vtab.ConstraintOp]int{
	vtab.OpEQ:        2,
	vtab.OpGT:        4,
	vtab.OpLE:        8,
	vtab.OpLT:        16,
	vtab.OpGE:        32,
	vtab.OpMATCH:     64,
	vtab.OpLIKE:      65,
	vtab.OpGLOB:      66,
	vtab.OpREGEXP:    67,
	vtab.OpNE:        68,
	vtab.OpISNOT:     69,
	vtab.OpISNOTNULL: 70,
	vtab.OpISNULL:    71,
	vtab.OpIS:        72,
	vtab.OpLIMIT:     73,
	vtab.OpOFFSET:    74,
}

// Costs that osquery returns to SQLite's planner.
const (
	costScan       = 1e6 // no constraint that the plugin can use, or a required one is missing
	costConstraint = 1   // at least one constraint is passed to the plugin
	costUnordered  = 10  // added for each constraint <, <=, > or >= on a text column
)

// A plan lists the constraints and columns that one way of reading the table passes to
// the plugin. SQLite passes it from BestIndex to Filter as the index string, so that the
// table needs no state between statements.
type plan struct {
	Terms []term `json:"terms"` // one for each value that Filter gets
	Used  uint64 `json:"used"`  // sqlite3_index_info.colUsed
}

type term struct {
	Column int `json:"column"`
	Op     int `json:"op"`
	// IsChecked is set if the value is only checked, and not passed to the plugin.
	IsChecked bool `json:"checked,omitempty"`
}

// BestIndex passes every constraint on an indexed, required or additional column to the
// plugin. It promises neither an order nor that rows meet a constraint: SQLite checks each
// row again.
func (t *table) BestIndex(info *vtab.IndexInfo) error {
	p := plan{Terms: []term{}, Used: info.ColUsed}
	cost := float64(costScan)
	for i := range info.Constraints {
		c := &info.Constraints[i]
		if !c.Usable || c.Column < 0 || c.Column >= len(t.columns) {
			continue
		}
		op, known := operators[c.Op]
		if !known {
			continue
		}
		col := t.columns[c.Column]
		if col.kind == typeText && ordering(c.Op) {
			cost += costUnordered
			continue
		}
		if !col.pushed() {
			if t.isStrict && ordering(c.Op) {
				c.ArgIndex = len(p.Terms)
				p.Terms = append(p.Terms, term{Column: c.Column, Op: op, IsChecked: true})
			}
			continue
		}
		cost = costConstraint
		c.ArgIndex = len(p.Terms)
		p.Terms = append(p.Terms, term{Column: c.Column, Op: op})
	}
	if t.lacksRequired(p.Terms, p.Used) {
		cost = costScan
	}
	encoded, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode plan: %w", err)
	}
	info.IdxStr = string(encoded)
	info.EstimatedCost = cost
	return nil
}

// ordering reports whether op is an operator that osquery does not pass on for text
// columns.
func ordering(op vtab.ConstraintOp) bool {
	return op == vtab.OpLT || op == vtab.OpLE || op == vtab.OpGT || op == vtab.OpGE
}

// used reports whether a statement reads column i. SQLite has one bit for each of the
// first 63 columns. Bit 63 stands for all others.
func used(mask uint64, i int) bool {
	return mask&(1<<min(i, 63)) != 0
}

// lacksRequired reports whether a statement reads required columns and constrains none of
// them. osquery requires a constraint on one of them, not on all.
func (t *table) lacksRequired(terms []term, mask uint64) bool {
	lacks := false
	for i, c := range t.columns {
		if c.effective()&optionRequired == 0 {
			continue
		}
		if slices.ContainsFunc(terms, func(term term) bool { return term.Column == i }) {
			return false
		}
		lacks = lacks || used(mask, i)
	}
	return lacks
}
