//go:build linux

package bpf

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestARecordIsOfOneCanary(t *testing.T) {
	c := Canary{Value: 7, Set: 2, From: 100, End: 200}
	of := func(value uint64) *Record { return &Record{Call: &Call{Canary: value}} }
	require.True(t, c.IsOf(of(7), Position{2, 101}))
	require.False(t, c.IsOf(of(9), Position{2, 101}), "another call")
	require.False(t, c.IsOf(of(7), Position{1, 101}), "an older set")
	require.False(t, c.IsOf(of(7), Position{2, 100}), "before the call")
	require.False(t, c.IsOf(&Record{}, Position{2, 101}))
}

func TestARingIsCrowdedWithLittleRoom(t *testing.T) {
	w := newWrittenRing(t, 1<<20)
	require.False(t, w.isCrowded())
	w.setEnd(1<<20 + ringSize*15/16)
	require.False(t, w.isCrowded())
	w.setEnd(1<<20 + ringSize*15/16 + 8)
	require.True(t, w.isCrowded())
	w.read.Store(w.end())
	w.Release(1<<20 + 8)
	require.False(t, w.isCrowded())
}
