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
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/bpf"
	"github.com/kmodquery/kmodquery/linux/module"
)

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// fakeRing is a ring of images. A flush is nil.
type fakeRing chan *bpf.Chunk

// read uses the chunk's memory again, as the ring's reader does.
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

func (r fakeRing) wake() error {
	r <- nil
	return nil
}

const badSize = 1<<64 - 1

// chunkOf is a part of an image of the thread tid.
func chunkOf(tid uint32, image []byte, from, to int) *bpf.Chunk {
	return &bpf.Chunk{Attempt: 7, Tid: tid, Size: uint64(len(image)), Offset: uint64(from), Data: image[from:to]}
}

func wantedOf(tid uint32) wantedImage {
	return wantedImage{id: contextID{7, tid}, loadID: fmt.Sprint(tid), sent: true}
}

// imageText is an image of that many bytes.
func imageText(seed byte, size int) []byte {
	return bytes.Repeat([]byte{seed, 1, 2, 3, 4, 5, 6}, size/7+1)[:size]
}

func TestImagesComeTogether(t *testing.T) {
	ring := make(fakeRing, 100)
	read := map[string]imageInfo{}
	i := newImages(nil, func(*bpf.Chunk) {}, func(loadID string, found imageInfo) {
		require.NotContains(t, read, loadID, "once")
		read[loadID] = found
		if len(read) == 4 {
			close(ring)
		}
	})
	i.read, i.wake = ring.read, ring.wake

	one, two := imageText(1, 3000), imageText(2, 2500)
	path := testFile(t, imageText(3, 100))
	for at := 0; at < 3000; at += 1000 {
		ring <- chunkOf(1, one, at, at+1000)
		ring <- chunkOf(2, two, at, min(at+1000, len(two)))
		ring <- &bpf.Chunk{Size: badSize} // another one that does not decode
	}
	require.NoError(t, i.want(wantedOf(2)))
	require.NoError(t, i.want(wantedOf(1)))
	fromFile := wantedOf(3)
	fromFile.sent, fromFile.file, fromFile.pid = false, fileAt(t, path), uint32(os.Getpid())
	require.NoError(t, i.want(fromFile))
	require.NoError(t, i.want(wantedOf(4))) // nothing came of it
	i.run()

	require.Len(t, read, 4)
	for loadID, image := range map[string][]byte{"1": one, "2": two} {
		require.Equal(t, sum(image), read[loadID].columns.SHA256)
		require.Equal(t, sum(image), read[loadID].columns.ImageSHA256)
		require.Equal(t, "kernel", read[loadID].columns.HashSource)
	}
	require.Equal(t, sum(imageText(3, 100)), read["3"].columns.SHA256)
	require.Equal(t, "file", read["3"].columns.HashSource)
	require.Equal(t, noImageInfo(), read["4"])
	require.Zero(t, i.held)
	require.Empty(t, i.parts)
	require.Empty(t, i.order)
}

// settled are the jobs after two flushes.
func (i *images) resolved() map[string][]byte {
	i.resolve()
	i.resolve()
	jobs := map[string][]byte{}
	for len(i.jobs) > 0 {
		job := <-i.jobs
		jobs[job.loadID] = job.bytes
	}
	return jobs
}

func newCollector() *images {
	i := newImages(nil, nil, nil)
	i.wake = func() error { return nil }
	return i
}

func TestImagesThatAreNotWhole(t *testing.T) {
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
			i := newCollector()
			for _, c := range test.chunks {
				i.add(c)
			}
			w := wantedOf(1)
			w.sent = test.isSent
			require.NoError(t, i.want(w))
			require.Equal(t, map[string][]byte{"1": test.want}, i.resolved())
			require.NotContains(t, i.parts, w.id)
			require.NotContains(t, i.order, w.id)
			require.Empty(t, i.resolved(), "it is asked for once")
			for id := range i.parts { // of other attempts
				i.drop(id)
			}
			require.Equal(t, len(test.want), i.held, "until it was read")
		})
	}
}

func TestImagesBoundWhatTheyHold(t *testing.T) {
	const size = 30 << 20
	i := newCollector()
	big := imageText(1, size)
	take := func(tid uint32) {
		for at := 0; at < size; at += size / 3 {
			i.add(chunkOf(tid, big, at, at+size/3))
			require.LessOrEqual(t, i.held, maxHeld)
		}
	}
	take(1)
	take(2)
	take(3)
	require.NotContains(t, i.parts, contextID{7, 1}, "the oldest leaves")
	for tid := range uint32(3) {
		require.NoError(t, i.want(wantedOf(tid+1)))
	}
	i.resolve()
	require.Empty(t, i.jobs, "chunks may still come")
	i.resolve()
	require.Nil(t, (<-i.jobs).bytes)
	two, three := <-i.jobs, <-i.jobs
	require.Len(t, two.bytes, size)
	require.Len(t, three.bytes, size)
	require.Equal(t, 2*size, i.held, "what waits to be read is held")

	take(4)
	require.NoError(t, i.want(wantedOf(4)))
	require.Equal(t, map[string][]byte{"4": nil}, i.resolved(), "there is no room beside them")
	i.release(len(two.bytes))
	take(5)
	require.NoError(t, i.want(wantedOf(5)))
	require.Len(t, i.resolved()["5"], size)

	t.Run("in memory that was made for them", func(t *testing.T) {
		i := newCollector()
		for tid := range uint32(100) {
			i.add(&bpf.Chunk{Attempt: 7, Tid: tid, Size: bpf.MaxImage, Data: big[:1]})
		}
		var made int
		for _, p := range i.parts {
			made += cap(p.bytes)
		}
		require.LessOrEqual(t, made, maxHeld+bpf.MaxImage)
	})
}

// The kernel's numbers are not trusted with memory.
func TestImagesOfAnySize(t *testing.T) {
	i := newCollector()
	i.add(&bpf.Chunk{Attempt: 7, Tid: 1, Size: 1<<64 - 1, Data: []byte("x")})
	require.LessOrEqual(t, cap(i.parts[contextID{7, 1}].bytes), bpf.MaxImage)
	require.NoError(t, i.want(wantedOf(1)))
	require.Equal(t, map[string][]byte{"1": nil}, i.resolved())
}

func TestImagesThatCannotBeAskedFor(t *testing.T) {
	i := newCollector()
	i.wake = func() error { return os.ErrClosed }
	require.ErrorIs(t, i.want(wantedOf(1)), os.ErrClosed)
}

// It ends with the ring, when all that settled was read.
func TestImagesEnd(t *testing.T) {
	ring := make(fakeRing, 100)
	var done []string
	i := newImages(nil, func(*bpf.Chunk) {}, func(loadID string, _ imageInfo) {
		time.Sleep(10 * time.Millisecond)
		done = append(done, loadID)
	})
	var closing sync.Mutex // a ring may be closed while it is woken
	closed := false
	i.read = ring.read
	i.wake = func() error {
		closing.Lock()
		defer closing.Unlock()
		if closed {
			return os.ErrClosed
		}
		return ring.wake()
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		i.run()
	}()
	for tid := range uint32(5) {
		require.NoError(t, i.want(wantedOf(tid)))
	}
	require.NoError(t, i.wake())
	require.Eventually(t, func() bool { return len(ring) == 0 }, 10*time.Second, time.Millisecond)
	closing.Lock()
	closed = true
	close(ring)
	closing.Unlock()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		require.Fail(t, "it does not end")
	}
	require.Equal(t, []string{"0", "1", "2", "3", "4"}, done)
}

func TestImageInfo(t *testing.T) {
	whole := module.Image{
		SHA256: "5a", ImageSHA256: "1a", Name: "x", Version: "1.0", Srcversion: "AB", Vermagic: "6.1", License: "GPL",
		Intree: new(int64(1)), Signed: true, Signature: &module.Signature{Signer: "somebody", KeyID: "A0", Hash: "sha256"},
	}
	all := found
	all.columns.Version, all.columns.Srcversion = "1.0", "AB"
	require.Equal(t, all, imageInfoOf(whole, nil, "kernel"))

	require.Equal(t, imageInfo{columns: kmodquery.Event{SHA256: "5a", HashSource: "file", Missing: "image_sha256,signer"}},
		imageInfoOf(module.Image{SHA256: "5a", Missing: []string{"image_sha256", "signer"}}, nil, "file"))

	// Nobody knows what stands behind the point where the reading ended.
	broken := imageInfoOf(module.Image{SHA256: "5a"}, context.DeadlineExceeded, "kernel")
	require.Equal(t, "5a", broken.columns.SHA256)
	require.Equal(t, "image_sha256,vermagic,license,intree,signer,signature_key_id,signature_hash", broken.columns.Missing.String())
	require.Equal(t, unread, noImageInfo().columns.Missing.String())
}

func TestImageInfoOfBytes(t *testing.T) {
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

// A ring that is never read to its end keeps no more images waiting than this.
func TestImagesBoundWhatIsWanted(t *testing.T) {
	given := 0
	i := newImages(nil, func(*bpf.Chunk) {}, func(_ string, found imageInfo) {
		given++
		require.Contains(t, found.columns.Missing, "sha256")
	})
	i.wake = func() error { return nil }
	for tid := range uint32(maxWanted + 10) {
		require.NoError(t, i.want(wantedOf(tid)))
	}
	require.Equal(t, 10, given)
	require.Len(t, i.wanted, maxWanted)
}

// As many wait to be read as a ring has when a recorder returns; files must not
// keep them waiting.
func TestImagesBoundWhatWaits(t *testing.T) {
	for _, test := range []struct {
		name   string
		isSent bool
		max    int
	}{{"bytes", true, maxJobs}, {"files", false, maxFileJobs}} {
		t.Run(test.name, func(t *testing.T) {
			i := newCollector()
			given := 0
			i.done = func(_ string, found imageInfo) {
				given++
				require.Equal(t, noImageInfo(), found)
			}
			want := func(tid uint32) {
				i.add(chunkOf(tid, []byte("image"), 0, 5))
				w := wantedOf(tid)
				w.sent = test.isSent
				require.NoError(t, i.want(w))
				if tid%1000 == 0 {
					i.resolve()
				}
			}
			for tid := range uint32(maxJobs + 10) {
				want(tid)
			}
			i.resolve()
			i.resolve()
			require.Len(t, i.jobs, test.max)
			require.Equal(t, maxJobs+10-test.max, given)
			<-i.jobs
			want(maxJobs + 10)
			i.resolve()
			i.resolve()
			require.Len(t, i.jobs, test.max)
			require.Equal(t, maxJobs+10-test.max, given, "there was room again")
			require.LessOrEqual(t, i.held, 5*(maxJobs+1))
		})
	}
}
