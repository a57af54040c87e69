package suite

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/test/race"
)

func TestEachSuiteIncludesTheSmallerOnes(t *testing.T) {
	for name, want := range map[string]struct {
		all, long bool
		repeat    int
		trials    int
	}{
		"":     {false, false, 20, 250},
		"all":  {true, false, 20, 1000},
		"long": {true, true, 100, 1000},
	} {
		t.Setenv(Env, name)
		require.Equal(t, want.all, All(), name)
		require.Equal(t, want.long, Long(), name)
		require.Equal(t, want.repeat, Repeat(100), name)
		require.Equal(t, 1, Repeat(1), name)
		if testing.Short() || race.Enabled {
			want.trials = 62
		}
		require.Equal(t, want.trials, Trials(1000), name)
	}
}
