//go:build linux

package bpf

import (
	"bytes"
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

// chunk is a chunk as the ring buffer would hand it over: n bytes of an image in
// a record with room for more, which holds what was there before.
func chunk(n, room int) (raw, data []byte) {
	data = bytes.Repeat([]byte("image\x00"), n/6+1)[:n]
	raw = append(bytesOf(moduleImageChunk{AttemptNs: 3, Size: 1 << 40, Offset: 1 << 30, Tid: 11, Len: uint32(n)}), data...)
	return append(raw, bytes.Repeat([]byte{0xaa}, room-n)...), data
}

func TestDecodeChunk(t *testing.T) {
	const step, whole = 1024, 65536 // CHUNK_STEP and CHUNK_LEN of record.h
	var c Chunk
	for room := step; room <= whole; room += step {
		for _, n := range []int{room - step, room - step + 1, room - 1, room} {
			for name, room := range map[string]int{"as it is sent": room, "as older sets sent it": whole} {
				raw, data := chunk(n, room)
				require.NoError(t, c.take(raw, Position{1, 2}), "%d bytes, %s", n, name)
				require.True(t, bytes.Equal(data, c.Data), "%d bytes, %s", n, name)
				require.Equal(t, RingSize(len(raw)), c.RingSize)
				c.record, c.Data = nil, nil
				require.Equal(t, Chunk{Attempt: 3, Tid: 11, Size: 1 << 40, Offset: 1 << 30, Position: Position{1, 2}, RingSize: 8 + 32 + room}, c)
			}
		}
	}
}

func TestDecodeChunkRefusesWhatIsNoChunk(t *testing.T) {
	whole, _ := chunk(100, 1024)
	for _, test := range []struct {
		name, want string
		raw        []byte
	}{
		{"nothing", "decode record: 0 bytes where at least 32 are due", nil},
		{"cut before its bytes", "decode record: 31 bytes where at least 32 are due", whole[:31]},
		{"without its bytes", "decode chunk of an image: 0 bytes where 100 are due", whole[:32]},
		{"without the last of its bytes", "decode chunk of an image: 99 bytes where 100 are due", whole[:131]},
		{"the largest length", "decode chunk of an image: 1024 bytes where 4294967295 are due", append(bytesOf(moduleImageChunk{Len: 1<<32 - 1}), whole[32:]...)},
	} {
		t.Run(test.name, func(t *testing.T) {
			require.EqualError(t, new(Chunk).decode(test.raw), test.want)
		})
	}
}

func FuzzDecodeChunk(f *testing.F) {
	for _, room := range []int{0, 1024, 2048, 65536} {
		raw, _ := chunk(room, room)
		f.Add(raw)
		f.Add(raw[:len(raw)/2])
	}
	raw, _ := chunk(100, 1024)
	f.Add(raw)
	f.Add(bytesOf(moduleImageChunk{Size: 1<<64 - 1, Offset: 1<<64 - 1, Len: 1<<32 - 1}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var c Chunk
		if c.decode(raw) != nil {
			return
		}
		require.LessOrEqual(t, 32+len(c.Data), len(raw))
		require.Equal(t, raw[32:32+len(c.Data)], c.Data)

		var shifted Chunk
		require.NoError(t, shifted.decode(append([]byte{0}, raw...)[1:]))
		require.Equal(t, c, shifted, "alignment must not matter")
	})
}
