//go:build linux

package ebpf

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery/bpf"
)

// testFile creates a file and returns its path.
func testFile(t *testing.T, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.ko")
	require.NoError(t, os.WriteFile(path, content, 0o600))
	return path
}

// fileAt returns a file as the programs record it.
func fileAt(t *testing.T, path string) *bpf.File {
	t.Helper()
	var stat unix.Stat_t
	require.NoError(t, unix.Lstat(path, &stat))
	return &bpf.File{
		IsModule: true, Path: path, Device: unix.Major(stat.Dev)<<20 | unix.Minor(stat.Dev), Inode: stat.Ino,
		Size: uint64(stat.Size), Ctime: stat.Ctim.Sec, CtimeNanos: stat.Ctim.Nsec,
	}
}

// wantedFile is the job for an image that this process loaded from a file.
func wantedFile(file *bpf.File) imageJob {
	return imageJob{file: file, pid: uint32(os.Getpid())}
}

func TestOnlyTheSameFileIsRead(t *testing.T) {
	content := imageText(1, 1000)
	tests := []struct {
		name   string
		change func(t *testing.T, path string, file *bpf.File)
		isSame bool
	}{
		{"the same", func(*testing.T, string, *bpf.File) {}, true},
		{"read by others meanwhile", func(t *testing.T, path string, _ *bpf.File) {
			_, err := os.ReadFile(path)
			require.NoError(t, err)
		}, true},
		{"missing", func(t *testing.T, path string, _ *bpf.File) { require.NoError(t, os.Remove(path)) }, false},
		{"its folder is missing", func(t *testing.T, path string, _ *bpf.File) { require.NoError(t, os.RemoveAll(filepath.Dir(path))) }, false},
		{"replaced by one of the same size", func(t *testing.T, path string, _ *bpf.File) {
			require.NoError(t, os.Rename(testFile(t, imageText(2, 1000)), path))
		}, false},
		{"changed", func(t *testing.T, path string, file *bpf.File) {
			require.Eventually(t, func() bool {
				require.NoError(t, os.WriteFile(path, imageText(2, 1000), 0o600))
				now := fileAt(t, path)
				return now.Ctime != file.Ctime || now.CtimeNanos != file.CtimeNanos // its clock ticks every few milliseconds
			}, 10*time.Second, time.Millisecond)
		}, false},
		{"longer", func(t *testing.T, path string, _ *bpf.File) { require.NoError(t, os.Truncate(path, 1001)) }, false},
		{"shorter", func(t *testing.T, path string, _ *bpf.File) { require.NoError(t, os.Truncate(path, 999)) }, false},
		{"empty", func(t *testing.T, path string, _ *bpf.File) { require.NoError(t, os.Truncate(path, 0)) }, false},
		{"a link to it", func(t *testing.T, path string, _ *bpf.File) {
			require.NoError(t, os.Rename(path, path+".moved")) // which may change its ctime
			require.NoError(t, os.Symlink(testFile(t, content), path))
		}, false},
		{"a link to nothing", func(t *testing.T, path string, _ *bpf.File) {
			require.NoError(t, os.Remove(path))
			require.NoError(t, os.Symlink("/nonexistent", path))
		}, false},
		{"a link to itself", func(t *testing.T, path string, _ *bpf.File) {
			require.NoError(t, os.Remove(path))
			require.NoError(t, os.Symlink(path, path))
		}, false},
		{"a named pipe", func(t *testing.T, path string, file *bpf.File) {
			require.NoError(t, os.Remove(path))
			require.NoError(t, unix.Mkfifo(path, 0o600))
			*file = *fileAt(t, path) // whatever the kernel may have said of it
		}, false},
		{"a folder", func(t *testing.T, path string, file *bpf.File) {
			require.NoError(t, os.Remove(path))
			require.NoError(t, os.Mkdir(path, 0o700))
			*file = *fileAt(t, path)
		}, false},
		{"another inode", func(_ *testing.T, _ string, file *bpf.File) { file.Inode++ }, false},
		{"another minor device", func(_ *testing.T, _ string, file *bpf.File) { file.Device ^= 1 }, false},
		{"another major device", func(_ *testing.T, _ string, file *bpf.File) { file.Device ^= 1 << 20 }, false},
		{"another second", func(_ *testing.T, _ string, file *bpf.File) { file.Ctime++ }, false},
		{"another nanosecond", func(_ *testing.T, _ string, file *bpf.File) { file.CtimeNanos++ }, false},
		{"a size that cannot be", func(_ *testing.T, _ string, file *bpf.File) { file.Size = 1 << 63 }, false},
		{"a path without its beginning", func(_ *testing.T, path string, file *bpf.File) { file.Path, file.Incomplete = path[1:], true }, true},
		{"a file system that a program answers for", func(_ *testing.T, _ string, file *bpf.File) { file.Filesystem = "fuse.sshfs" }, false},
		{"no path", func(_ *testing.T, _ string, file *bpf.File) { file.Path = "" }, false},
		{"a path that is none", func(_ *testing.T, _ string, file *bpf.File) { file.Path += "\x00" }, false},
	}
	files := &fileReader{timeout: imageTime}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			path := testFile(t, content)
			file := fileAt(t, path)
			test.change(t, path, file)
			ended := make(chan imageInfo, 1)
			go func() { ended <- files.info(wantedFile(file)) }()
			select {
			case read := <-ended:
				if !test.isSame {
					require.Equal(t, noImageInfo(), read)
					break
				}
				require.Equal(t, sum(content), read.columns.SHA256)
				require.Equal(t, "file", read.columns.HashSource)
			case <-time.After(5 * time.Second):
				require.Fail(t, "it takes long")
			}
			require.Eventually(t, func() bool { return !files.isBusy.Load() }, time.Second, time.Millisecond)
		})
	}
	require.Equal(t, noImageInfo(), files.info(imageJob{}), "no file at all")
	require.Equal(t, noImageInfo(), files.info(wantedFile(&bpf.File{})))
}

// A file that was put in the place of the module's is not opened: opening a watchdog
// device would start it.
func TestOtherFilesAreNotOpened(t *testing.T) {
	path := testFile(t, []byte("x"))
	file := fileAt(t, path)
	other := testFile(t, []byte("y"))
	require.NoError(t, os.Remove(path))
	require.NoError(t, os.Symlink(other, path))
	watch, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	require.NoError(t, err)
	defer unix.Close(watch)
	_, err = unix.InotifyAddWatch(watch, other, unix.IN_OPEN)
	require.NoError(t, err)
	require.Equal(t, noImageInfo(), (&fileReader{timeout: imageTime}).info(wantedFile(file)))
	_, err = unix.Read(watch, make([]byte, 4096))
	require.ErrorIs(t, err, unix.EAGAIN, "it was opened")
}

// The kernel reports a path without links. A link that was put there later may lead into a
// file system that never answers.
func TestFileIsNotReadThroughALink(t *testing.T) {
	path := testFile(t, []byte("x"))
	file := fileAt(t, path)
	file.Path = path + ".link"
	require.NoError(t, os.Symlink(path, file.Path))
	require.Equal(t, noImageInfo(), (&fileReader{timeout: imageTime}).info(wantedFile(file)))
}

func TestFileOfALoaderThatExited(t *testing.T) {
	path := testFile(t, []byte("x"))
	w := wantedFile(fileAt(t, path))
	w.pid = 1<<32 - 1
	require.Equal(t, sum([]byte("x")), (&fileReader{timeout: imageTime}).info(w).columns.SHA256)
}

// chrooted returns the id of a thread that has another root until done is closed.
func chrooted(root string, done <-chan struct{}) (uint32, error) {
	type loader struct {
		tid uint32
		err error
	}
	begun := make(chan loader)
	begin := func() {
		err := unix.Unshare(unix.CLONE_FS)
		if err == nil {
			err = unix.Chroot(root)
		}
		begun <- loader{uint32(unix.Gettid()), err}
		<-done
	}
	go func() {
		runtime.LockOSThread() // never unlocked: no other goroutine may use this thread
		if unix.Gettid() != os.Getpid() {
			begin()
			return
		}
		// The first thread's root is that of the process.
		go func() {
			runtime.LockOSThread()
			begin()
		}()
		<-done
		runtime.UnlockOSThread()
	}()
	l := <-begun
	return l.tid, l.err
}

func TestFileIsReadUnderTheLoadersRoot(t *testing.T) {
	path := testFile(t, []byte("x"))
	root := filepath.Dir(path)
	done := make(chan struct{})
	defer close(done)
	tid, err := chrooted(root, done)
	if errors.Is(err, unix.EPERM) {
		t.Skip("changing the root takes CAP_SYS_CHROOT")
	}
	require.NoError(t, err)
	file := fileAt(t, path)
	file.Path = "/x.ko"
	require.Equal(t, noImageInfo(), (&fileReader{timeout: imageTime}).info(wantedFile(file)))
	require.Equal(t, sum([]byte("x")), (&fileReader{timeout: imageTime}).info(imageJob{file: file, pid: tid}).columns.SHA256)
}

func TestFilesAreReadOneAfterTheOther(t *testing.T) {
	files := &fileReader{timeout: imageTime}
	w := wantedFile(fileAt(t, testFile(t, []byte("x"))))
	for i := range 1000 {
		require.NotEmpty(t, files.info(w).columns.SHA256, i)
	}
}

func TestFileReadEndsWithItsContext(t *testing.T) {
	path := testFile(t, imageText(1, 1<<20))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := readIfSame(ctx, "/proc/self", path, fileID(fileAt(t, path)))
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, noImageInfo(), fileInfo(ctx, wantedFile(fileAt(t, path))))
}

// hang makes every open of a file block. opened waits for one, and free unblocks
// them.
func hang(t *testing.T, path string) (opened, free func()) {
	t.Helper()
	group, err := unix.FanotifyInit(unix.FAN_CLASS_CONTENT|unix.FAN_CLOEXEC, unix.O_RDONLY)
	if err == nil {
		err = unix.FanotifyMark(group, unix.FAN_MARK_ADD, unix.FAN_OPEN_PERM, unix.AT_FDCWD, path)
	}
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		t.Skipf("making a file hang takes root and CONFIG_FANOTIFY_ACCESS_PERMISSIONS: %v", err)
	}
	require.NoError(t, err)
	opened = func() {
		var raw [4096]byte
		n, err := unix.Read(group, raw[:])
		require.NoError(t, err)
		var event unix.FanotifyEventMetadata
		_, err = binary.Decode(raw[:n], binary.NativeEndian, &event)
		require.NoError(t, err)
		require.EqualValues(t, unix.FAN_OPEN_PERM, event.Mask)
		require.NoError(t, unix.Close(int(event.Fd)))
	}
	isFree := false
	free = func() {
		if !isFree {
			isFree = true
			require.NoError(t, unix.Close(group)) // lets everybody go on
		}
	}
	t.Cleanup(free)
	return opened, free
}

func TestFileThatHangsDoesNotDelayOthers(t *testing.T) {
	slow := wantedFile(fileAt(t, testFile(t, []byte("slow"))))
	other := wantedFile(fileAt(t, testFile(t, []byte("other"))))
	opened, free := hang(t, slow.file.Path)
	files := &fileReader{timeout: imageTime}
	first := make(chan imageInfo, 1)
	go func() { first <- files.info(slow) }()
	opened()

	begin := time.Now()
	for range 100 {
		require.Equal(t, noImageInfo(), files.info(slow))
		require.Equal(t, noImageInfo(), files.info(other))
	}
	require.Less(t, time.Since(begin), imageTime/2)
	require.Empty(t, first)

	free()
	require.Equal(t, sum([]byte("slow")), (<-first).columns.SHA256)
	require.Eventually(t, func() bool { return files.info(other).columns.SHA256 == sum([]byte("other")) }, imageTime, time.Millisecond)
}

func TestFileThatHangsTimesOut(t *testing.T) {
	slow := wantedFile(fileAt(t, testFile(t, []byte("slow"))))
	opened, free := hang(t, slow.file.Path)
	files := &fileReader{timeout: imageTime}
	files.timeout = 50 * time.Millisecond
	go opened()
	require.Equal(t, noImageInfo(), files.info(slow))
	require.Equal(t, noImageInfo(), files.info(slow), "it still hangs")
	free()
	require.Eventually(t, func() bool { return files.info(slow).columns.SHA256 == sum([]byte("slow")) }, imageTime, time.Millisecond)
}

func TestFileThatHangsIsNotReadByTheNextRun(t *testing.T) {
	slow := wantedFile(fileAt(t, testFile(t, []byte("slow"))))
	other := wantedFile(fileAt(t, testFile(t, []byte("other"))))
	opened, free := hang(t, slow.file.Path)
	files := &fileReader{timeout: 50 * time.Millisecond}
	readInARun := func(job imageJob) imageInfo {
		p := newPictured()
		p.files, p.read = files, func(*bpf.Chunk) error { return os.ErrClosed }
		job.attempt = p.t.get(attemptID{7, 1}, start)
		p.jobs <- job
		p.run()
		return *job.attempt.image
	}
	go opened()
	require.Equal(t, noImageInfo(), readInARun(slow))
	require.Equal(t, noImageInfo(), readInARun(other), "the other file still hangs")
	free()
	require.Eventually(t, func() bool { return readInARun(other).columns.SHA256 == sum([]byte("other")) }, imageTime, time.Millisecond)
}
