//go:build linux

package bpf

import (
	"errors"
	"time"
	"unsafe"

	"github.com/cilium/ebpf/ringbuf"
)

// MaxImage is the largest image of a module that the programs can send, in
// bytes (module.bpf.c, CHUNKS).
const MaxImage = 32 << 20

// Image says what became of the bytes that the kernel took as a module.
type Image struct {
	Size uint64 // in bytes
	// Sent says that every byte was put into the ring of images before this
	// record was made. Otherwise there is no use in what is found there: it was
	// too large, the ring had no room, or memory could not be read.
	Sent bool
	// Attempt is that of its chunks.
	Attempt time.Duration
	// Flags are those of finit_module, where they were not known before.
	Flags uint32
}

func decodeImage(raw []byte) (*Image, error) {
	r, err := view[moduleImageRecord](raw)
	if err != nil {
		return nil, err
	}
	return &Image{Size: r.Size, Sent: r.State == moduleImageStateIMAGE_WHOLE, Flags: r.Flags, Attempt: time.Duration(r.Header.AttemptNs)}, nil
}

// A Chunk is a part of the image that the thread Tid handed over in the
// attempt that began at Attempt.
type Chunk struct {
	Attempt time.Duration
	Tid     uint32
	Size    uint64 // of the whole image
	Offset  uint64
	Data    []byte

	record ringbuf.Record
}

// ReadImage waits for the next chunk. Its Data is valid until c is read into
// again. It returns ErrFlushed after a FlushImages, once the ring of images is
// empty, and os.ErrClosed after Close. What older sets of programs sent comes
// first. Only one goroutine may call it.
func (p *Programs) ReadImage(c *Chunk) error {
	for len(p.olderImages) > 0 {
		err := p.olderImages[0].ReadInto(&c.record)
		if err == nil {
			return c.decode(c.record.RawSample)
		}
		p.olderImages[0].Close() // it has no more
		p.olderImages = p.olderImages[1:]
	}
	if err := p.images.ReadInto(&c.record); err != nil {
		return err
	}
	return c.decode(c.record.RawSample)
}

func (c *Chunk) decode(raw []byte) error {
	const fixed = int(unsafe.Offsetof(moduleImageChunk{}.Data))
	r, err := view[moduleImageChunk](raw)
	if err != nil {
		return err
	}
	if int(r.Len) > len(r.Data) {
		return errors.New("decode chunk of an image: its length is too large")
	}
	c.Attempt, c.Tid, c.Size, c.Offset = time.Duration(r.AttemptNs), r.Tid, r.Size, r.Offset
	c.Data = raw[fixed : fixed+int(r.Len)]
	return nil
}

// FlushImages interrupts a ReadImage that waits, as Flush does a Read.
func (p *Programs) FlushImages() error { return p.images.Flush() }
