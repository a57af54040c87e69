//go:build linux

package bpf

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDecodeImage(t *testing.T) {
	for state, isSent := range map[moduleImageState]bool{
		moduleImageStateIMAGE_WHOLE: true, moduleImageStateIMAGE_OVER_LIMIT: false, moduleImageStateIMAGE_LOST: false,
		moduleImageStateIMAGE_UNREADABLE: false, 0: false, 99: false,
	} {
		raw := moduleImageRecord{Header: header(moduleRecordKindRECORD_IMAGE), Size: 1 << 40, State: state}
		want := wantHeader(ImageTaken)
		want.Image = &Image{Attempt: 3, Size: 1 << 40, Sent: isSent}
		got, err := Decode(bytesOf(raw))
		require.NoError(t, err)
		require.Equal(t, want, got, state)
	}
}
