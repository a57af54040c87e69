package virtualtable

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCells(t *testing.T) {
	const absent = "absent"
	tests := []struct {
		kind, cell string
		want       any
	}{
		{"TEXT", "plain", "plain"},
		{"TEXT", "", ""},
		{"TEXT", "a\x00b\xff", "a\x00b\xff"},
		{"TEXT", absent, nil},
		{"BLOB", "bytes", "bytes"},
		{"BLOB", "", ""},
		{"INTEGER", absent, nil},
		{"INTEGER", "", nil},
		{"INTEGER", "7", int64(7)},
		{"INTEGER", "-1", int64(-1)},
		{"INTEGER", "010", int64(8)},
		{"INTEGER", "0x10", int64(16)},
		{"INTEGER", "4294967296", int64(0)},
		{"INTEGER", "2147483648", int64(math.MinInt32)},
		{"INTEGER", "9223372036854775808", nil},
		{"INTEGER", "no number", nil},
		{"BIGINT", "", nil},
		{"BIGINT", "4294967296", int64(4294967296)},
		{"BIGINT", "-9223372036854775808", int64(math.MinInt64)},
		{"BIGINT", "9223372036854775808", nil},
		{"BIGINT", "010", int64(8)},
		{"BIGINT", " \t+12 rest", int64(12)},
		{"BIGINT", "08", int64(0)},
		{"BIGINT", "0x", int64(0)},
		{"BIGINT", "0XfF", int64(255)},
		{"BIGINT", "1_000", int64(1)},
		{"BIGINT", "1.9", int64(1)},
		{"BIGINT", "-", nil},
		{"UNSIGNED BIGINT", "42", int64(42)},
		{"UNSIGNED BIGINT", "18446744073709551615", nil},
		{"DOUBLE", "", nil},
		{"DOUBLE", "1.5", 1.5},
		{"DOUBLE", " 2", 2.0},
		{"DOUBLE", "1e999", math.Inf(1)},
		{"DOUBLE", "1.5x", nil},
		{"NOTYPE", "5", nil},
	}
	for _, test := range tests {
		t.Run(test.kind+" "+test.cell, func(t *testing.T) {
			row := map[string]string{"cell": test.cell, "undeclared": "x"}
			if test.cell == absent {
				delete(row, "cell")
			}
			cells := &recorder{name: "cells", routes: []map[string]string{route("cell", test.kind, "1")}, rows: always(row)}
			require.Equal(t, [][]any{{test.want}}, query(t, open(t, cells), "SELECT cell FROM cells"))
		})
	}
}
