//go:build linux

package host

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCanariesAreNoAddressesAndDiffer(t *testing.T) {
	seen := map[uint64]bool{}
	for range 1000 {
		c := NextCanary()
		require.Equal(t, Canary(), CanaryOf(c))
		require.False(t, seen[c])
		seen[c] = true
		require.EqualValues(t, 1, c&1)

		fresh := newCanary()
		require.Equal(t, fresh, CanaryOf(fresh))
		require.Negative(t, int64(fresh))
		require.Negative(t, int64(fresh<<8), "without a tag too")
	}
}
