package ebpf

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMemory(t *testing.T) {
	var m memory[int, string]
	_, ok := m.get(1)
	require.False(t, ok)
	m.forget(1)
	m.put(1, "a")
	got, ok := m.get(1)
	require.True(t, ok)
	require.Equal(t, "a", got)
	m.forget(1)
	_, ok = m.get(1)
	require.False(t, ok)
}

func TestMemoryForgetsTheOldest(t *testing.T) {
	var m memory[int, int]
	for i := range maxRemembered {
		m.put(i, i)
	}
	m.forget(0)
	m.put(maxRemembered, 0)
	_, ok := m.get(1)
	require.True(t, ok, "what was forgotten had made room")
	m.put(maxRemembered+1, 0)
	m.put(maxRemembered+2, 0)
	for key, isThere := range map[int]bool{0: false, 1: false, 2: false, 3: true, maxRemembered: true, maxRemembered + 2: true} {
		_, ok := m.get(key)
		require.Equal(t, isThere, ok, key)
	}
	require.Len(t, m.values, maxRemembered)
}

// What comes and goes leaves no trace, and what stays is kept meanwhile.
func TestMemoryKeepsNoTraceOfWhatWasForgotten(t *testing.T) {
	var m memory[int, int]
	m.put(-1, 7)
	for i := range 10 * maxRemembered {
		m.put(i, i)
		m.forget(i)
		require.LessOrEqual(t, len(m.order), 2*maxRemembered)
	}
	got, ok := m.get(-1)
	require.True(t, ok)
	require.Equal(t, 7, got)
	require.Len(t, m.values, 1)
}
