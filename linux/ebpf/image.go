//go:build linux

package ebpf

import (
	"bytes"
	"context"
	"errors"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/bpf"
	"github.com/kmodquery/kmodquery/internal/progress"
	"github.com/kmodquery/kmodquery/linux/module"
)

const (
	// imageTime bounds the reading of one image.
	imageTime = 5 * time.Second
	// maxHeld bounds the bytes of images that are in memory at once, before
	// they are read. Beyond it the oldest leaves: then the file is read.
	maxHeld = 64 << 20
	// maxJobs bounds the images that wait to be read, of which the ring may have as
	// many when a recorder returns. One whose file is to be read, which takes as long
	// as somebody likes, waits behind maxFileJobs at most. What is beyond is given
	// up.
	maxJobs     = 4096
	maxFileJobs = 256
	// maxWanted bounds the images that are wanted while the ring is not read to
	// its end. What is beyond is given up.
	maxWanted = 4096
	// retryRead is the pause after a read that failed.
	retryRead = 10 * time.Millisecond
)

// An imageInfo is what a module's image says.
type imageInfo struct {
	columns kmodquery.Event // only the fields that fill copies
	// isSigned says that there is a signature. Where it could not be told,
	// signer is named in the columns' Missing.
	isSigned bool
}

// noImageInfo is that of an image that could not be had.
func noImageInfo() imageInfo {
	var none imageInfo
	none.columns.Missing.Add(module.Columns...)
	return none
}

// A wantedImage is one that the kernel took.
type wantedImage struct {
	id     contextID
	loadID string
	sent   bool      // all of it is in the ring
	file   *bpf.File // where it came from, or nil
	pid    uint32    // that named the file
	size   *int64    // these two where they were not known before
	flags  *int64
}

// images brings the modules' images from the kernel together and reads them,
// beside the reader of the records.
type images struct {
	read func(*bpf.Chunk) error // from the ring
	wake func() error           // makes read return bpf.ErrFlushed, once the ring is empty
	done func(loadID string, found imageInfo)
	took func(*bpf.Chunk)
	loop *progress.Loop // of run

	mu     sync.Mutex
	wanted []wantedImage
	held   int // bytes set aside for parts and jobs
	jobs   chan imageJob

	// The collector's own.
	due   []wantedImage // wanted before the last flush
	parts map[contextID]*parts
	order []contextID // of parts, the oldest first
}

// Parts are what has come of an image.
type parts struct {
	size  uint64
	bytes []byte
}

// An imageJob is an image to read: its bytes, or nil where they did not come
// through the ring in full.
type imageJob struct {
	wantedImage
	bytes []byte
}

// newImages returns images that call done, from a goroutine of their own, once
// for every image that is wanted, and took for each part that is read.
func newImages(programs *bpf.Programs, took func(*bpf.Chunk), done func(string, imageInfo)) *images {
	return &images{
		read: programs.ReadImage, wake: programs.FlushImages, took: took, done: done,
		jobs: make(chan imageJob, maxJobs), parts: map[contextID]*parts{}, loop: &progress.Loop{},
	}
}

// want asks for the image of an attempt, after its last chunk was put into the
// ring.
func (i *images) want(w wantedImage) error {
	i.mu.Lock()
	isFull := len(i.wanted) >= maxWanted
	if !isFull {
		i.wanted = append(i.wanted, w)
	}
	i.mu.Unlock()
	if isFull {
		i.done(w.loadID, noImageInfo())
	}
	return i.wake()
}

// run works until the ring is closed.
func (i *images) run() {
	var working sync.WaitGroup
	working.Go(func() {
		files := newFileReader()
		for job := range i.jobs {
			found := job.info(files)
			job.describe(&found.columns)
			i.done(job.loadID, found)
			i.release(cap(job.bytes))
		}
	})
	defer working.Wait()
	defer close(i.jobs)
	defer i.loop.End()
	var chunk bpf.Chunk
	for {
		i.loop.Round()
		err := i.read(&chunk)
		switch {
		case errors.Is(err, os.ErrClosed):
			return
		case errors.Is(err, bpf.ErrFlushed):
			i.resolve()
		case err == nil:
			i.took(&chunk)
			i.add(&chunk)
		default:
			time.Sleep(retryRead)
		}
	}
}

// add takes the next chunk. One that does not follow the last spoils its image.
func (i *images) add(c *bpf.Chunk) {
	id := contextID{c.Attempt, c.Tid}
	known := i.parts[id]
	if known == nil {
		if known = i.begin(id, c); known == nil {
			return
		}
	}
	if c.Offset != uint64(len(known.bytes)) || len(c.Data) > cap(known.bytes)-len(known.bytes) {
		i.drop(id)
		return
	}
	known.bytes = append(known.bytes, c.Data...)
}

// begin sets memory aside for the image of a first chunk, in the place of older
// ones where it must be. It returns nil where there is none.
func (i *images) begin(id contextID, c *bpf.Chunk) *parts {
	size := int(min(c.Size, bpf.MaxImage))
	if c.Offset != 0 {
		return nil
	}
	for i.hold(size) > maxHeld {
		i.release(size)
		if len(i.order) == 0 {
			return nil
		}
		i.drop(i.order[0])
	}
	begun := &parts{size: c.Size, bytes: make([]byte, 0, size)}
	i.parts[id] = begun
	i.order = append(i.order, id)
	return begun
}

// drop forgets what has come of an image.
func (i *images) drop(id contextID) {
	if known := i.parts[id]; known != nil {
		i.release(cap(known.bytes))
	}
	i.forget(id)
}

func (i *images) forget(id contextID) {
	delete(i.parts, id)
	i.order = slices.DeleteFunc(i.order, func(other contextID) bool { return other == id })
}

func (i *images) hold(n int) int {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.held += n
	return i.held
}

func (i *images) release(n int) { i.hold(-n) }

// resolve passes on the images that were wanted before the last flush: what has
// not come of them will not come. Those that are wanted since may have chunks
// that the ring got after it was seen empty.
func (i *images) resolve() {
	due := i.due
	i.mu.Lock()
	i.due, i.wanted = i.wanted, nil
	i.mu.Unlock()
	if len(i.due) > 0 {
		_ = i.wake() // it fails only when the reading has ended
	}
	for _, w := range due {
		job := imageJob{wantedImage: w}
		if known := i.parts[w.id]; known != nil && w.sent && uint64(len(known.bytes)) == known.size {
			job.bytes = known.bytes
			i.forget(w.id)
		} else {
			i.drop(w.id)
		}
		limit := maxJobs
		if job.bytes == nil {
			limit = maxFileJobs
		}
		if len(i.jobs) < limit { // it only becomes less meanwhile
			i.jobs <- job
			continue
		}
		i.release(cap(job.bytes))
		i.done(job.loadID, noImageInfo())
	}
}

// describe adds what the kernel said when it had the image.
func (w wantedImage) describe(e *kmodquery.Event) {
	if w.file == nil {
		e.Size = w.size
	} else {
		e.Flags = w.flags
	}
}

// info reads the image that the kernel took, or its file.
func (j imageJob) info(files *fileReader) imageInfo {
	if j.bytes == nil {
		return files.info(j.wantedImage)
	}
	ctx, cancel := context.WithTimeout(context.Background(), imageTime)
	defer cancel()
	image, err := module.Read(ctx, bytes.NewReader(j.bytes), int64(len(j.bytes)))
	if err != nil && image.SHA256 == "" {
		return noImageInfo()
	}
	return imageInfoOf(image, err, kmodquery.HashSourceKernel)
}

// imageInfoOf turns what was read of an image into columns; of an image that
// could not be read to its end, what there is.
func imageInfoOf(image module.Image, err error, source string) imageInfo {
	found := imageInfo{isSigned: image.Signed}
	e := &found.columns
	e.SHA256, e.ImageSHA256, e.HashSource = image.SHA256, image.ImageSHA256, source
	e.Name, e.Version, e.Srcversion = image.Name, image.Version, image.Srcversion
	e.Vermagic, e.License, e.Intree = image.Vermagic, image.License, image.Intree
	if s := image.Signature; s != nil {
		e.Signer, e.SignatureKeyID, e.SignatureHash = s.Signer, s.KeyID, s.Hash
	}
	e.Missing.Add(image.Missing...)
	if err != nil {
		e.Missing.Add(module.Columns[1:]...)
	}
	return found
}
