package kmodquery_test

import (
	"math"
	"strings"
	"testing"

	"github.com/kmodquery/kmodquery"
)

func TestTaintFlagsAreTheLettersOfTheMask(t *testing.T) {
	for _, test := range []struct {
		mask *int64
		want string
	}{
		{nil, ""},
		{new(int64(0)), ""},
		{new(int64(1)), "P"},
		{new(int64(12288)), "OE"},
		{new(int64(1<<19 | 1<<15)), "KJ"},
		{new(int64(1<<20 | 1<<1)), "F?"},
		{new(int64(math.MinInt64)), "?"},
	} {
		if got := kmodquery.TaintFlags(test.mask); got != test.want {
			t.Errorf("flags are %q, want %q", got, test.want)
		}
	}
}

func TestTaintMaskReadsItsOwnFlags(t *testing.T) {
	for mask := int64(0); mask < 1<<20; mask += 997 {
		if got := kmodquery.TaintMask("(" + kmodquery.TaintFlags(&mask) + "+)"); got != mask {
			t.Fatalf("mask of %q is %d, want %d", kmodquery.TaintFlags(&mask), got, mask)
		}
	}
	if got := kmodquery.TaintMask(strings.Repeat("?", 3)); got != 0 {
		t.Errorf("unknown letters are %d, want 0", got)
	}
}
