//go:build linux

package autostart

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
)

const (
	// maxFile bounds what is read of one file, in bytes, and maxPlace of one place.
	maxFile  = 1 << 20
	maxPlace = 8 << 20
	// maxFiles bounds the files of one place, and maxNames the names that are looked at.
	maxFiles = 1024
	maxNames = 65536
	// maxLines bounds the entries of one place.
	maxLines = 8192
	// maxText bounds a line's text in an entry, in bytes.
	maxText = 4096
)

var (
	errCut      = errors.New("it is too long to be read whole")
	errTooMany  = errors.New("the place has too many files or lines, and the rest was not read")
	errDangling = errors.New("it is a link to a file that does not exist")
)

// A file is one file of a place.
type file struct {
	name     string // in its folder, by which files are ordered and mask each other
	path     string // in its folder
	resolved string // path with links resolved
	info     fs.FileInfo
	data     []byte // what was read
	err      error  // why it was not read, or not read whole
	mask     *file  // file of the same name that takes precedence, or nil
	// maybeMask is a dangling link or a folder of the same name in an earlier folder. kmod and
	// newer versions of systemd skip it, older ones let it mask the file.
	maybeMask *file
}

// isOdd reports whether a file is a dangling link or a folder.
func (f *file) isOdd() bool {
	return errors.Is(f.err, errDangling) || f.info != nil && f.info.IsDir()
}

// nullDevice is where a link leads that disables the files that it masks.
const nullDevice = "/dev/null"

// isNull reports whether a file is a link to /dev/null.
func (f *file) isNull() bool {
	if f.resolved != nullDevice || f.info == nil {
		return f.resolved == nullDevice // there are no devices below another root
	}
	stat, ok := f.info.Sys().(*syscall.Stat_t)
	return ok && stat.Mode&unix.S_IFMT == unix.S_IFCHR && stat.Rdev == unix.Mkdev(1, 3)
}

// entry returns an entry of the file.
func (f *file) entry(place, stage string, line int64, text string) kmodquery.AutostartEntry {
	e := kmodquery.AutostartEntry{Place: place, Stage: stage, File: f.resolved, Line: line, Text: text}
	if e.File == "" {
		e.File = f.path
	}
	if f.info == nil {
		e.Missing.Add("file_uid", "file_mode", "file_mtime")
		return e
	}
	if stat, ok := f.info.Sys().(*syscall.Stat_t); ok {
		e.UID = new(int64(stat.Uid))
		e.Mode = new(int64(stat.Mode & 0o7777))
	}
	e.Mtime = new(f.info.ModTime().Unix())
	return e
}

// cut cuts the texts of an entry that are too long, and names them as missing.
func cut(e *kmodquery.AutostartEntry) {
	for _, column := range []struct {
		name string
		text *string
	}{{"text", &e.Text}, {"name", &e.Name}, {"requested", &e.Requested}, {"argument", &e.Argument}, {"path", &e.Path}} {
		if len(*column.text) > maxText {
			*column.text = (*column.text)[:maxText]
			e.Missing.Add(column.name)
		}
	}
}

// unread returns the entry of a file that was not read, or not read whole.
func (f *file) unread(place, stage string) kmodquery.AutostartEntry {
	e := f.entry(place, stage, 0, "")
	e.Reason = "cannot read the file: " + kmodquery.Printable(reason(f.err))
	e.Missing.Add("line", "text", "action", "name", "effective")
	return e
}

// reason returns an error without the path of this process.
func reason(err error) string {
	var pathError *fs.PathError
	if errors.As(err, &pathError) {
		return pathError.Err.Error()
	}
	return err.Error()
}

// A budget is what may still be read of a place.
type budget struct{ bytes, files, names int }

func newBudget() *budget { return &budget{bytes: maxPlace, files: maxFiles, names: maxNames} }

// read reads one file of a place, whose budget of bytes it reduces.
func (r *reading) read(name, at string, limit int, left *budget) *file {
	f := &file{name: name, path: at}
	if f.resolved, f.err = r.tree.Resolve(at); f.err != nil {
		if target, _ := os.Readlink(r.root + at); target == nullDevice {
			f.resolved = nullDevice
		} else if errors.Is(f.err, fs.ErrNotExist) {
			f.err = errDangling
		}
		return f
	}
	opened, info, err := r.tree.Open(f.resolved)
	f.info, f.err = info, err
	if err != nil {
		return f
	}
	defer opened.Close()
	limit = min(limit, max(left.bytes, 0))
	f.data, f.err = io.ReadAll(io.LimitReader(opened, int64(limit)))
	if left.bytes -= len(f.data); f.err == nil && len(f.data) == limit {
		if n, _ := opened.Read(make([]byte, 1)); n > 0 {
			f.err = errCut
		}
	}
	return f
}

// readFile reads one file, or returns nil if there is none.
func (r *reading) readFile(at string) *file { return r.readFileOf(at, maxFile) }

// readFileOf reads one file of so many bytes at most, or returns nil if there is none.
func (r *reading) readFileOf(at string, limit int) *file {
	f := r.read(path.Base(at), at, limit, &budget{bytes: limit})
	if errors.Is(f.err, errDangling) || errors.Is(f.err, fs.ErrNotExist) || errors.Is(f.err, unix.ENOTDIR) {
		if _, err := os.Lstat(r.root + at); err != nil {
			return nil
		}
	}
	return f
}

// readFolders reads the files with a suffix in folders, the folder that takes precedence
// first, and then the single files that belong to the same place. The files are ordered by
// name. Each has the one that masks it. The error says that something is missing. left is reduced.
func (r *reading) readFolders(left *budget, folders []string, suffix string, singles ...string) ([]*file, error) {
	var paths []string
	var failed error
	seen := map[string]bool{}
	for _, folder := range folders {
		resolved, err := r.tree.Resolve(folder)
		if err == nil && seen[resolved] { // such as /lib, if that is a link
			continue
		}
		if err == nil {
			seen[resolved] = true
			err = r.tree.Names(resolved, func(name string) bool {
				left.names--
				if strings.HasSuffix(name, suffix) && name != suffix && !strings.HasPrefix(name, ".") {
					paths = append(paths, folder+"/"+name)
					left.files--
				}
				return left.names > 0 && left.files > 0
			})
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			failed = fmt.Errorf("cannot read %s: %s", folder, reason(err))
		}
	}
	if left.names <= 0 || left.files <= 0 {
		failed = errTooMany
	}
	paths = append(paths, singles...)
	// A stable sort keeps the order of the folders.
	slices.SortStableFunc(paths, func(a, b string) int { return strings.Compare(path.Base(a), path.Base(b)) })
	var files []*file
	first, odd := map[string]*file{}, map[string]*file{}
	for _, at := range paths {
		f := r.read(path.Base(at), at, maxFile, left)
		f.mask, f.maybeMask = first[f.name], odd[f.name]
		switch {
		case slices.Contains(singles, at) && errors.Is(f.err, errDangling):
			continue // there is no such file
		case f.isOdd():
			odd[f.name] = f
		case f.mask == nil:
			first[f.name] = f
		}
		files = append(files, f)
	}
	return files, failed
}
