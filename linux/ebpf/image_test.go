//go:build linux

package ebpf

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/bpf"
	"github.com/kmodquery/kmodquery/internal/progress"
	"github.com/kmodquery/kmodquery/linux/module"
)

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// fakeRing is a ring buffer of images. A nil chunk is a flush.
type fakeRing chan *bpf.Chunk

// read reuses the chunk's memory, as bpf.Programs does.
func (r fakeRing) read(c *bpf.Chunk) error {
	next, isOpen := <-r
	switch {
	case !isOpen:
		return os.ErrClosed
	case next == nil:
		return bpf.ErrFlushed
	case next.Size == badSize:
		return errors.New("no chunk")
	}
	clear(c.Data[:cap(c.Data)])
	c.Attempt, c.Tid, c.Size, c.Offset = next.Attempt, next.Tid, next.Size, next.Offset
	c.Data = append(c.Data[:0], next.Data...)
	return nil
}

func (r fakeRing) flush() error {
	r <- nil
	return nil
}

const badSize = 1<<64 - 1

// chunkOf returns a part of the image of the thread tid.
func chunkOf(tid uint32, image []byte, from, to int) *bpf.Chunk {
	return &bpf.Chunk{Attempt: 7, Tid: tid, Size: uint64(len(image)), Offset: uint64(from), Data: image[from:to]}
}

// pictured is images with their attempts.
type pictured struct {
	*images
	t *attempts
}

func newPictured() *pictured {
	t := newAttempts(newAckTracker(), &fakeRelease{}, nil)
	none := func() error { return nil }
	return &pictured{t: t, images: &images{attempts: t, flush: none, wake: none, deaths: noDeaths(), loop: &progress.Loop{}, jobs: make(chan imageJob, maxJobs), files: &fileReader{timeout: imageTime}}}
}

// wantedOf returns the job for the image of the thread tid.
func (p *pictured) wantedOf(tid uint32) imageJob {
	return imageJob{attempt: p.t.get(attemptID{7, tid}, start), sent: true}
}

func (p *pictured) ask(job imageJob) {
	p.t.acks.mu.Lock()
	defer p.t.acks.mu.Unlock()
	p.want(job)
}

// add adds chunks. Later attempts begin later.
func (p *pictured) add(chunks ...*bpf.Chunk) {
	for _, c := range chunks {
		p.t.addChunk(c, start.Add(time.Duration(len(p.t.byID))*time.Second))
	}
}

// collected returns the jobs after two flushes, by thread.
func (p *pictured) collected() map[uint32][]byte {
	p.collect()
	p.collect()
	jobs := map[uint32][]byte{}
	for len(p.jobs) > 0 {
		job := <-p.jobs
		jobs[job.attempt.id.tid] = job.bytes
	}
	return jobs
}

// imageText returns an image of size bytes.
func imageText(seed byte, size int) []byte {
	return bytes.Repeat([]byte{seed, 1, 2, 3, 4, 5, 6}, size/7+1)[:size]
}

func TestChunksAreJoined(t *testing.T) {
	ring := make(fakeRing, 100)
	p := newPictured()
	p.read, p.flush = ring.read, ring.flush
	p.wake = func() error {
		if len(p.t.read) == 4 {
			close(ring)
		}
		return nil
	}
	one, two := imageText(1, 3000), imageText(2, 2500)
	path := testFile(t, imageText(3, 100))
	for at := 0; at < 3000; at += 1000 {
		ring <- chunkOf(1, one, at, at+1000)
		ring <- chunkOf(2, two, at, min(at+1000, len(two)))
		ring <- &bpf.Chunk{Size: badSize} // another one that does not decode
	}
	p.ask(p.wantedOf(2))
	p.ask(p.wantedOf(1))
	fromFile := p.wantedOf(3)
	fromFile.sent, fromFile.file, fromFile.pid = false, fileAt(t, path), uint32(os.Getpid())
	p.ask(fromFile)
	p.ask(p.wantedOf(4)) // nothing came of it
	p.run()

	require.Len(t, p.t.read, 4)
	read := map[uint32]imageInfo{}
	for _, a := range p.t.read {
		read[a.id.tid] = *a.image
	}
	for tid, image := range map[uint32][]byte{1: one, 2: two} {
		require.Equal(t, sum(image), read[tid].columns.SHA256)
		require.Equal(t, sum(image), read[tid].columns.ImageSHA256)
		require.Equal(t, "kernel", read[tid].columns.HashSource)
	}
	require.Equal(t, sum(imageText(3, 100)), read[3].columns.SHA256)
	require.Equal(t, "file", read[3].columns.HashSource)
	require.Equal(t, noImageInfo(), read[4])
	require.Zero(t, p.t.imageMemory)
}

func TestIncompleteImagesAreDropped(t *testing.T) {
	image := imageText(1, 100)
	tests := []struct {
		name   string
		chunks []*bpf.Chunk
		isSent bool
		want   []byte
	}{
		{"whole", []*bpf.Chunk{chunkOf(1, image, 0, 60), chunkOf(1, image, 60, 100)}, true, image},
		{"with an empty chunk", []*bpf.Chunk{chunkOf(1, image, 0, 60), chunkOf(1, image, 60, 60), chunkOf(1, image, 60, 100)}, true, image},
		{"the kernel says it was not sent", []*bpf.Chunk{chunkOf(1, image, 0, 100)}, false, nil},
		{"nothing came", nil, true, nil},
		{"the beginning is lost", []*bpf.Chunk{chunkOf(1, image, 60, 100)}, true, nil},
		{"a gap", []*bpf.Chunk{chunkOf(1, image, 0, 30), chunkOf(1, image, 60, 100)}, true, nil},
		{"a gap, and all the rest", []*bpf.Chunk{chunkOf(1, image, 0, 30), chunkOf(1, image, 60, 100), chunkOf(1, image, 30, 60)}, true, nil},
		{"the end is lost", []*bpf.Chunk{chunkOf(1, image, 0, 60)}, true, nil},
		{"a chunk twice", []*bpf.Chunk{chunkOf(1, image, 0, 60), chunkOf(1, image, 0, 60), chunkOf(1, image, 60, 100)}, true, nil},
		{"a chunk instead of another", []*bpf.Chunk{chunkOf(1, image, 0, 50), chunkOf(1, image, 0, 50)}, true, nil},
		{"more than there is", []*bpf.Chunk{
			{Attempt: 7, Tid: 1, Size: 50, Data: image[:40]}, {Attempt: 7, Tid: 1, Size: 50, Offset: 40, Data: image[40:]},
		}, true, nil},
		{"other threads' and attempts'", []*bpf.Chunk{
			chunkOf(2, image, 0, 60), {Attempt: 8, Tid: 1, Size: 100, Data: image[:60]}, chunkOf(1, image, 60, 100),
		}, true, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := newPictured()
			p.add(test.chunks...)
			job := p.wantedOf(1)
			job.sent = test.isSent
			p.ask(job)
			require.Equal(t, map[uint32][]byte{1: test.want}, p.collected())
			require.Nil(t, job.attempt.parts)
			require.Empty(t, p.collected(), "it is asked for once")
			for _, a := range p.t.byID { // of other attempts
				p.t.dropParts(a)
			}
			require.Equal(t, len(test.want), p.t.imageMemory, "until it was read")
		})
	}
}

func TestMemoryForImagesIsBounded(t *testing.T) {
	const size = 30 << 20
	p := newPictured()
	big := imageText(1, size)
	take := func(tid uint32) {
		for at := 0; at < size; at += size / 3 {
			p.add(chunkOf(tid, big, at, at+size/3))
			require.LessOrEqual(t, p.t.imageMemory, maxImageMemory)
		}
	}
	take(1)
	take(2)
	take(3)
	require.Nil(t, p.wantedOf(1).attempt.parts, "the oldest leaves")
	for tid := range uint32(3) {
		p.ask(p.wantedOf(tid + 1))
	}
	p.collect()
	require.Empty(t, p.jobs, "chunks may still come")
	p.collect()
	require.Nil(t, (<-p.jobs).bytes)
	two, three := <-p.jobs, <-p.jobs
	require.Len(t, two.bytes, size)
	require.Len(t, three.bytes, size)
	require.Equal(t, 2*size, p.t.imageMemory, "what waits to be read is held")

	take(4)
	p.ask(p.wantedOf(4))
	require.Equal(t, map[uint32][]byte{4: nil}, p.collected(), "there is no room beside them")
	p.done(two, noImageInfo())
	take(5)
	p.ask(p.wantedOf(5))
	require.Len(t, p.collected()[5], size)

	t.Run("allocated for first chunks", func(t *testing.T) {
		p := newPictured()
		for tid := range uint32(5) {
			p.add(&bpf.Chunk{Attempt: 7, Tid: tid, Size: bpf.MaxImage, Data: big[:1]})
		}
		var made int
		for _, a := range p.t.byID {
			if a.parts != nil {
				made += cap(a.parts.bytes)
			}
		}
		require.LessOrEqual(t, made, maxImageMemory)
	})
	t.Run("of a forgotten attempt", func(t *testing.T) {
		p := newPictured()
		p.add(chunkOf(1, []byte("image"), 0, 3))
		require.Equal(t, 5, p.t.imageMemory)
		p.t.forget(p.wantedOf(1).attempt)
		require.Zero(t, p.t.imageMemory)
	})
}

func TestImageSizeIsBounded(t *testing.T) {
	p := newPictured()
	p.add(&bpf.Chunk{Attempt: 7, Tid: 1, Size: 1<<64 - 1, Data: []byte("x")})
	job := p.wantedOf(1)
	require.LessOrEqual(t, cap(job.attempt.parts.bytes), bpf.MaxImage)
	p.ask(job)
	require.Equal(t, map[uint32][]byte{1: nil}, p.collected())
}

func TestRunEndsWhenEveryImageIsRead(t *testing.T) {
	p := newPictured()
	flushes := 0
	p.flush = func() error { flushes++; return nil }
	p.read = func(*bpf.Chunk) error {
		if flushes == 0 {
			return os.ErrClosed
		}
		flushes = 0
		return bpf.ErrFlushed
	}
	for tid := range uint32(5) {
		p.ask(p.wantedOf(tid))
	}
	p.run()
	var tids []uint32
	for _, a := range p.t.read {
		tids = append(tids, a.id.tid)
	}
	require.Equal(t, []uint32{0, 1, 2, 3, 4}, tids)
}

func TestDamagedRingOfImagesEndsTheRun(t *testing.T) {
	p := newPictured()
	var failed error
	p.fail = func(err error) { failed = err }
	p.read = func(*bpf.Chunk) error {
		if failed != nil {
			return os.ErrClosed
		}
		return fmt.Errorf("%w: no record", bpf.ErrDamaged)
	}
	p.run()
	require.EqualError(t, failed, "read the images: the ring buffer is damaged: no record")
}

func TestImageInfoOf(t *testing.T) {
	whole := module.Image{
		SHA256: "5a", ImageSHA256: "1a", Name: "x", Version: "1.0", Srcversion: "AB", Vermagic: "6.1", License: "GPL",
		Intree: new(int64(1)), Signed: true, Signature: &module.Signature{Signer: "somebody", KeyID: "A0", Hash: "sha256"},
	}
	all := found
	all.columns.Version, all.columns.Srcversion = "1.0", "AB"
	require.Equal(t, all, imageInfoOf(whole, nil, "kernel"))

	require.Equal(t, imageInfo{columns: kmodquery.Event{SHA256: "5a", HashSource: "file", Missing: "image_sha256,signer"}},
		imageInfoOf(module.Image{SHA256: "5a", Missing: []string{"image_sha256", "signer"}}, nil, "file"))

	// What comes after the point where the reading ended is unknown.
	broken := imageInfoOf(module.Image{SHA256: "5a"}, context.DeadlineExceeded, "kernel")
	require.Equal(t, "5a", broken.columns.SHA256)
	require.Equal(t, "image_sha256,vermagic,license,intree,signer,signature_key_id,signature_hash", broken.columns.Missing.String())
	require.Equal(t, unread, noImageInfo().columns.Missing.String())
}

func TestImageIsReadFromItsBytes(t *testing.T) {
	text := []byte("no module")
	read := imageJob{bytes: text}.info(nil)
	require.Equal(t, sum(text), read.columns.SHA256)
	require.False(t, read.isSigned)
	require.Equal(t, "version,srcversion,vermagic,license,intree", read.columns.Missing.String())

	message, err := os.ReadFile("../module/testdata/issuer.der")
	require.NoError(t, err)
	signed := append(append(bytes.Clone(text), message...), 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, byte(len(message)>>8), byte(len(message)))
	signed = append(signed, "~Module signature appended~\n"...)
	read = imageJob{bytes: signed}.info(nil)
	require.Equal(t, sum(signed), read.columns.SHA256)
	require.True(t, read.isSigned)
	require.Equal(t, "kmodquery test key", read.columns.Signer)
	require.Equal(t, "sha256", read.columns.SignatureHash)
	require.NotEmpty(t, read.columns.SignatureKeyID)
}

// The ring buffer is never empty, so no image is collected.
func TestWantedImagesAreBounded(t *testing.T) {
	p := newPictured()
	for tid := range uint32(maxJobs + 10) {
		p.ask(p.wantedOf(tid))
	}
	require.Len(t, p.t.read, 10)
	for _, a := range p.t.read {
		require.Equal(t, noImageInfo(), *a.image)
	}
	require.Len(t, p.wanted, maxJobs)
}

// The ring buffer may hold maxJobs images when a recorder starts again. Files must not
// delay them.
func TestImagesToBeReadAreBounded(t *testing.T) {
	for _, test := range []struct {
		name   string
		isSent bool
		max    int
	}{{"bytes", true, maxJobs}, {"files", false, maxFileJobs}} {
		t.Run(test.name, func(t *testing.T) {
			p := newPictured()
			want := func(tid uint32) {
				p.add(chunkOf(tid, []byte("image"), 0, 5))
				job := p.wantedOf(tid)
				job.sent = test.isSent
				p.ask(job)
				if tid%1000 == 0 {
					p.collect()
				}
			}
			for tid := range uint32(maxJobs + 10) {
				want(tid)
			}
			p.collect()
			p.collect()
			require.Len(t, p.jobs, test.max)
			require.Len(t, p.t.read, maxJobs+10-test.max)
			<-p.jobs
			want(maxJobs + 10)
			p.collect()
			p.collect()
			require.Len(t, p.jobs, test.max)
			require.Len(t, p.t.read, maxJobs+10-test.max, "there was room again")
			require.LessOrEqual(t, p.t.imageMemory, 5*(maxJobs+1))
			for _, a := range p.t.read {
				require.Equal(t, noImageInfo(), *a.image)
			}
		})
	}
}
