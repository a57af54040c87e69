package rules

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/kmodquery/kmodquery/internal/trusted"
)

const (
	// maxFiles bounds the files of a folder that are read, and maxFileSize the bytes of each.
	maxFiles    = 128
	maxFileSize = 256 << 10
	// maxNames bounds the names in a folder, with those of files that are not read.
	maxNames = 1024
)

// A textFile is a file that was read.
type textFile struct {
	path    string
	content []byte
}

// A stamp tells one state of a folder and its files from another one.
type stamp string

// tick is more than the resolution of the times of any file system that holds configuration.
const tick = 100 * time.Millisecond

// stampOf returns the stamp of a folder, and false if something in it has changed so recently
// that a further change may have the same stamp. It opens no file.
func stampOf(folder string) (s stamp, isFinal bool) {
	var b strings.Builder
	var latest time.Time
	add := func(name string, info fs.FileInfo, err error) {
		if err != nil {
			fmt.Fprintf(&b, "%s %v\n", name, err)
			return
		}
		status := info.Sys().(*syscall.Stat_t)
		fmt.Fprintf(&b, "%s %d %d %d %d %v %d\n", name, status.Dev, status.Ino, status.Size, status.Uid, info.Mode(), changed(status).UnixNano())
		if at := changed(status); at.After(latest) {
			latest = at
		}
	}
	info, err := os.Stat(folder)
	add(folder, info, err)
	names, err := namesIn(folder)
	if err != nil {
		fmt.Fprintln(&b, err)
	}
	for _, name := range names {
		info, err := os.Stat(filepath.Join(folder, name))
		add(name, info, err)
	}
	return stamp(b.String()), time.Since(latest) > tick
}

// namesIn returns the names of the files to read, in order.
func namesIn(folder string) ([]string, error) {
	dir, err := os.Open(folder)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return namesOf(dir)
}

func namesOf(dir *os.File) ([]string, error) {
	all, err := dir.Readdirnames(maxNames + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(all) > maxNames {
		return nil, fmt.Errorf("%s has more than %d files; remove some", dir.Name(), maxNames)
	}
	var names []string
	for _, name := range all {
		switch {
		case strings.HasPrefix(name, "."):
		case strings.HasSuffix(name, ".yml"):
			return nil, fmt.Errorf("%s is not read: rename it to %s", filepath.Join(dir.Name(), name), strings.TrimSuffix(name, ".yml")+".yaml")
		case strings.HasSuffix(name, ".yaml"):
			names = append(names, name)
		}
	}
	if len(names) > maxFiles {
		return nil, fmt.Errorf("%s has %d files, more than %d; join some", dir.Name(), len(names), maxFiles)
	}
	slices.Sort(names)
	return names, nil
}

// readFolder reads the files of a folder, in the order of their names. It refuses what users
// other than root and the running one can write. A folder that does not exist has no files if
// isOptional is set.
func readFolder(folder string, isOptional bool) ([]textFile, error) {
	if folder == "" {
		return nil, nil
	}
	dir, err := trusted.OpenFolder(folder)
	if errors.Is(err, fs.ErrNotExist) && isOptional {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := namesOf(dir)
	if err != nil {
		return nil, err
	}
	var files []textFile
	var first error
	for _, name := range names {
		if f, err := readFile(filepath.Join(folder, name)); err == nil {
			files = append(files, f)
		} else {
			first = cmp.Or(first, err)
		}
	}
	return files, first
}

func readFile(path string) (textFile, error) {
	opened, err := trusted.Open(path)
	if err != nil {
		return textFile{}, err
	}
	defer opened.Close()
	content, err := io.ReadAll(io.LimitReader(opened, maxFileSize+1))
	if err == nil && len(content) > maxFileSize {
		err = fmt.Errorf("%s has more than %d bytes; split it", path, maxFileSize)
	}
	return textFile{path, content}, err
}

// hashOf returns the SHA-256 of the names and the contents of files, "" of none.
func hashOf(files []textFile) string {
	if len(files) == 0 {
		return ""
	}
	sum := sha256.New()
	for _, f := range files {
		fmt.Fprintf(sum, "%s %x\n", filepath.Base(f.path), sha256.Sum256(f.content))
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// A FileError is a mistake in a line of a file.
type FileError struct {
	Path string
	Line int // 0 if it concerns no line
	Err  error
}

func (e *FileError) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %v", e.Path, e.Err)
	}
	return fmt.Sprintf("%s:%d: %v", e.Path, e.Line, e.Err)
}

// Unwrap returns the mistake.
func (e *FileError) Unwrap() error { return e.Err }

// place returns the error of a file with the line, unless it has one already.
func place(path string, line int, err error) error {
	var placed *FileError
	if err == nil || errors.As(err, &placed) {
		return err
	}
	var at *positionError
	if errors.As(err, &at) {
		line = cmp.Or(at.line, line)
	}
	return &FileError{path, line, err}
}
