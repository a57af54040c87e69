package race

import (
	"runtime/debug"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestScale(t *testing.T) {
	info, ok := debug.ReadBuildInfo()
	require.True(t, ok)
	isRace := false
	for _, setting := range info.Settings {
		isRace = isRace || setting.Key == "-race" && setting.Value == "true"
	}
	require.Equal(t, isRace, Enabled)
	require.Equal(t, map[bool]int{false: 1000, true: 250}[isRace], Scale(1000))
}

func TestBuildFlags(t *testing.T) {
	if Enabled {
		require.Equal(t, "-race", BuildFlags()[0])
	} else {
		require.Empty(t, BuildFlags())
	}
}
