//go:build linux

package bpf

import (
	"fmt"
	"time"
	"unsafe"
)

// MaxImage is the largest image of a module that the programs can send, in
// bytes (module.bpf.c, CHUNKS).
const MaxImage = 32 << 20

// Image is the result of sending the bytes that the kernel took as a module.
type Image struct {
	Size uint64 // in bytes
	// Sent is whether every byte was put into the ring of images before this record
	// was made. If not, the image was too large, the ring had no room, or memory
	// could not be read, and the chunks in the ring are of no use.
	Sent bool
	// Attempt is the Attempt of its chunks.
	Attempt time.Duration
	// Flags are those of finit_module, if they were not known before.
	Flags uint32
}

func decodeImage(raw []byte) (*Image, error) {
	r, err := view[moduleImageRecord](raw)
	if err != nil {
		return nil, err
	}
	return &Image{Size: r.Size, Sent: r.State == moduleImageStateIMAGE_WHOLE, Flags: r.Flags, Attempt: time.Duration(r.Header.AttemptNs)}, nil
}

// A Chunk is a part of the image that the thread Tid loads in the attempt that began
// at Attempt.
type Chunk struct {
	Attempt time.Duration
	Tid     uint32
	Size    uint64 // of the whole image
	Offset  uint64
	Data    []byte

	// Position is for Release; RingSize is the number of bytes that it releases.
	Position Position
	RingSize int

	record []byte
}

// ReadImage waits for the next chunk. Its Data is valid until the next ReadImage into
// c. The chunks of older sets come first. ReadImage returns ErrFlushed after a
// FlushImages, once the ring of images is empty, os.ErrClosed after Close, and an error
// that matches ErrDamaged if no more can be read. Only one goroutine may call it.
func (p *Programs) ReadImage(c *Chunk) error {
	for len(p.olderImages) > 0 {
		older := p.olderImages[0]
		raw, position, err := older.images.Read(c.record)
		if err == nil {
			return c.take(raw, Position{older.name.id, position})
		}
		p.olderImages = p.olderImages[1:] // all of it was read
	}
	raw, position, err := p.images.Read(c.record)
	if err != nil {
		return err
	}
	return c.take(raw, Position{p.name.id, position})
}

func (c *Chunk) take(raw []byte, position Position) error {
	c.record, c.Position, c.RingSize = raw, position, RingSize(len(raw))
	return c.decode(raw)
}

func (c *Chunk) decode(raw []byte) error {
	r, err := view[moduleImageChunk](raw)
	if err != nil {
		return err
	}
	data := raw[unsafe.Sizeof(*r):]
	if uint64(r.Len) > uint64(len(data)) {
		return fmt.Errorf("decode chunk of an image: %d bytes where %d are due", len(data), r.Len)
	}
	c.Attempt, c.Tid, c.Size, c.Offset = time.Duration(r.AttemptNs), r.Tid, r.Size, r.Offset
	c.Data = data[:r.Len]
	return nil
}

// FlushImages makes ReadImage return ErrFlushed once the ring of images is empty.
func (p *Programs) FlushImages() error { return p.images.Flush() }
