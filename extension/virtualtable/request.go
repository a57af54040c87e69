package virtualtable

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/osquery/osquery-go/gen/osquery"
	"modernc.org/sqlite/vtab"
)

// queryContext is the JSON that osquery sends with a generate request
// (TablePlugin::setRequestFromContext in osquery/core/tables.cpp).
type queryContext struct {
	Constraints    []constraintList `json:"constraints"` // every column, by name
	ColsUsed       []string         `json:"colsUsed"`
	ColsUsedBitset uint64           `json:"colsUsedBitset"`
}

type constraintList struct {
	Name     string       `json:"name"`
	List     []constraint `json:"list"`
	Affinity columnType   `json:"affinity"`
}

type constraint struct {
	Op   int    `json:"op"`
	Expr string `json:"expr"`
}

func generateRequest(columns []column, p plan, values []vtab.Value) (osquery.ExtensionPluginRequest, error) {
	context := queryContext{ColsUsed: []string{}, ColsUsedBitset: p.Used}
	for i, c := range columns {
		list := constraintList{Name: c.name, List: []constraint{}, Affinity: c.kind}
		for n, term := range p.Terms {
			if term.Column != i || term.IsChecked {
				continue
			}
			// osquery drops NULL and "", so only SQLite checks such a constraint.
			if expr := valueText(values[n]); expr != "" {
				list.List = append(list.List, constraint{Op: term.Op, Expr: expr})
			}
		}
		context.Constraints = append(context.Constraints, list)
		if used(p.Used, i) {
			context.ColsUsed = append(context.ColsUsed, c.name)
		}
	}
	slices.SortFunc(context.Constraints, func(a, b constraintList) int {
		return strings.Compare(a.Name, b.Name)
	})
	encoded, err := json.Marshal(context)
	if err != nil {
		return nil, fmt.Errorf("encode query context: %w", err)
	}
	return osquery.ExtensionPluginRequest{"action": "generate", "context": string(encoded)}, nil
}

// valueText returns the text that osquery reads from sqlite3_value_text: up to the first
// NUL, and "" for NULL.
func valueText(value vtab.Value) string {
	var text string
	switch v := value.(type) {
	case int64:
		return strconv.FormatInt(v, 10)
	case float64:
		return realText(v)
	case string:
		text = v
	case []byte:
		text = string(v)
	}
	text, _, _ = strings.Cut(text, "\x00")
	return text
}

// realText returns a REAL as SQLite's "%!.15g" prints it: at most 15 digits, always a
// decimal point, and an exponent below 1e-04 and from 1e+15 on.
func realText(v float64) string {
	switch {
	case math.IsInf(v, 1):
		return "Inf"
	case math.IsInf(v, -1):
		return "-Inf"
	case v == 0:
		return "0.0"
	}
	text := strconv.FormatFloat(v, 'g', 15, 64)
	mantissa, exponent, scientific := strings.Cut(text, "e")
	if !strings.Contains(mantissa, ".") {
		mantissa += ".0"
	}
	if !scientific {
		return mantissa
	}
	return mantissa + "e" + exponent
}
