//go:build linux

package ebpf

import (
	"bytes"
	"container/list"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/bpf"
	"github.com/kmodquery/kmodquery/internal/progress"
	"github.com/kmodquery/kmodquery/linux/module"
)

const (
	// imageTime bounds the time to read one image from its file, and bytesTime from memory.
	// That needs processor time only, of which a busy host may give little.
	imageTime = 5 * time.Second
	bytesTime = 12 * time.Second
	// maxImageMemory bounds the bytes of images in memory that are not read yet.
	// Beyond it the oldest image is dropped, and its file is read instead.
	maxImageMemory = 64 << 20
	// maxJobs bounds the images whose chunks are awaited, and those that wait to be
	// read: the ring buffer may hold as many when a recorder starts again. The owner
	// of a file system can make reads slow, so an image whose file must be read waits
	// behind at most maxFileJobs others. An image beyond that is given up.
	maxJobs     = 4096
	maxFileJobs = 256
	// retryRead is the pause after a read that failed.
	retryRead = 10 * time.Millisecond
)

// An imageInfo holds the columns that are read from a module's image.
type imageInfo struct {
	columns kmodquery.Event // only the fields that fill copies
	// isSigned reports that the image has a signature. If that is unknown, the
	// columns' Missing has signer.
	isSigned bool
}

// noImageInfo returns the info of an image that could not be read.
func noImageInfo() (none imageInfo) {
	none.columns.Missing.Add(module.Columns...)
	return none
}

// imageParts are the chunks of an image that were read so far.
type imageParts struct {
	size    uint64 // of the whole image
	bytes   []byte
	element *list.Element // in the attempts' list of parts
}

// addChunk adds the next chunk of an image. It drops an image of which a chunk is
// missing. It locks the mutex, and any goroutine may call it.
func (t *attempts) addChunk(c *bpf.Chunk, now time.Time) {
	t.acks.mu.Lock()
	defer t.acks.mu.Unlock()
	a := t.get(attemptID{c.Attempt, c.Tid}, now)
	t.chunks.add(a, c.Position, c.RingSize)
	if a.parts == nil && c.Offset == 0 {
		a.parts = t.newParts(a, c.Size)
	}
	if p := a.parts; p != nil && c.Offset == uint64(len(p.bytes)) && len(c.Data) <= cap(p.bytes)-len(p.bytes) {
		p.bytes = append(p.bytes, c.Data...)
	} else {
		t.dropParts(a)
	}
	t.release()
}

// newParts allocates memory for an image. It drops the oldest images if that
// exceeds maxImageMemory, and returns nil if that does not suffice.
func (t *attempts) newParts(a *attempt, imageSize uint64) *imageParts {
	size := int(min(imageSize, bpf.MaxImage))
	for t.imageMemory+size > maxImageMemory {
		oldest := t.parts.Front()
		if oldest == nil {
			return nil
		}
		t.dropParts(oldest.Value.(*attempt))
	}
	t.imageMemory += size
	return &imageParts{size: imageSize, bytes: make([]byte, 0, size), element: t.parts.PushBack(a)}
}

// takeParts removes and returns the chunks of an attempt's image, or nil.
func (t *attempts) takeParts(a *attempt) *imageParts {
	parts := a.parts
	if parts != nil {
		t.parts.Remove(parts.element)
		a.parts = nil
	}
	return parts
}

// dropParts drops the chunks of an attempt's image.
func (t *attempts) dropParts(a *attempt) {
	if parts := t.takeParts(a); parts != nil {
		t.imageMemory -= cap(parts.bytes)
	}
}

// An imageJob is an image that the kernel took and that is to be read.
type imageJob struct {
	attempt *attempt
	loadID  string    // of the attempt
	bytes   []byte    // the image; nil if the file must be read
	sent    bool      // the programs put all chunks into the ring buffer
	file    *bpf.File // the module's file; nil if there is none
	pid     uint32    // the process whose root the file's path starts from
	size    *int64    // size and flags are nil unless only this record has them
	flags   *int64
}

// images reads the images of one run's attempts. Its goroutines run beside the
// reader's.
type images struct {
	attempts *attempts
	read     func(*bpf.Chunk) error // waits for the next chunk
	flush    func() error           // makes read return bpf.ErrFlushed when the ring buffer is empty
	wake     func() error           // wakes the reader
	deaths   *deathLog
	fail     func(error) // ends the run with an error
	files    *fileReader
	loop     *progress.Loop // of run
	jobs     chan imageJob

	// Guarded by the attempts' mutex.
	wanted []imageJob
	due    []imageJob // wanted before the last flush was requested
}

// want requests an image whose last chunk is in the ring buffer or was read. The
// caller holds the attempts' mutex.
func (i *images) want(job imageJob) {
	if len(i.wanted) < maxJobs {
		i.wanted = append(i.wanted, job)
	} else {
		i.attempts.setImage(job.attempt, noImageInfo())
	}
	_ = i.flush() // fails only after the ring buffer was closed
}

// run reads images until the ring buffer is closed.
func (i *images) run() {
	var working sync.WaitGroup
	working.Go(func() {
		for job := range i.jobs {
			info := noImageInfo()
			if i.deaths.begin(job.loadID) {
				info = job.info(i.files)
				i.deaths.end()
			}
			job.describe(&info.columns)
			i.done(job, info)
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
			i.collect()
		case err == nil:
			i.attempts.addChunk(&chunk, time.Now())
		default:
			if errors.Is(err, bpf.ErrDamaged) {
				i.fail(fmt.Errorf("read the images: %w", err))
			}
			time.Sleep(retryRead)
		}
	}
}

// collect starts jobs for the images that were wanted before the last flush was
// requested: every chunk of theirs was read. Later ones may have chunks that came
// after the ring buffer was seen empty.
func (i *images) collect() {
	i.attempts.acks.mu.Lock()
	due := i.due
	i.due, i.wanted = i.wanted, nil
	if len(i.due) > 0 {
		_ = i.flush() // fails only after the ring buffer was closed
	}
	for n := range due {
		job := &due[n]
		if parts := job.attempt.parts; parts != nil && job.sent && uint64(len(parts.bytes)) == parts.size {
			job.bytes = i.attempts.takeParts(job.attempt).bytes
		}
		i.attempts.dropParts(job.attempt)
	}
	i.attempts.acks.mu.Unlock()
	for _, job := range due {
		limit := maxJobs
		if job.bytes == nil {
			limit = maxFileJobs
		}
		if len(i.jobs) < limit { // no other goroutine sends
			i.jobs <- job
		} else {
			i.done(job, noImageInfo())
		}
	}
}

// done passes what was read of an image to the reader.
func (i *images) done(job imageJob, info imageInfo) {
	i.attempts.acks.mu.Lock()
	i.attempts.imageMemory -= cap(job.bytes)
	i.attempts.setImage(job.attempt, info)
	i.attempts.acks.mu.Unlock()
	_ = i.wake() // fails only after the ring buffer was closed
}

// describe adds the columns that only the image's record has.
func (j imageJob) describe(e *kmodquery.Event) {
	if j.file == nil {
		e.Size = j.size
	} else {
		e.Flags = j.flags
	}
}

// info reads the image, or the file that it came from.
func (j imageJob) info(files *fileReader) imageInfo {
	if j.bytes == nil {
		return files.info(j)
	}
	ctx, cancel := context.WithTimeout(context.Background(), bytesTime)
	defer cancel()
	image, err := module.Read(ctx, bytes.NewReader(j.bytes), int64(len(j.bytes)))
	if err != nil && image.SHA256 == "" {
		return noImageInfo()
	}
	return imageInfoOf(image, err, kmodquery.HashSourceKernel)
}

// imageInfoOf converts an image to columns. err is the error of reading it; the
// columns that were read before it are kept.
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
