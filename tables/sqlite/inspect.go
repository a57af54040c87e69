package sqlite

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// An Inspection is what a state folder shows without being opened.
type Inspection struct {
	Path   string // of the database
	Bytes  int64  // of the database and its write-ahead log; 0 if there is none
	Schema int    // version in the header of the database; a newer one may be in its log
	Newest int    // version that this program has
	// Free is how many bytes this process may still write there. It is below 0 if that is
	// not known.
	Free int64
	// Damaged is the number of damaged databases that were set aside.
	Damaged int
}

// headerBytes is the length of the header of an SQLite database, which has the application's
// version at versionOffset (https://sqlite.org/fileformat2.html).
const (
	headerBytes   = 100
	versionOffset = 60
	headerMagic   = "SQLite format 3\x00"
)

// Inspect looks at the state folder dir as [Open] does, and changes nothing. Its error says
// why the folder cannot be used; it matches fs.ErrNotExist if there is no folder. It must not
// be called in a process that has the store open, whose locks it would end.
func Inspect(dir string) (i Inspection, err error) {
	info, err := os.Lstat(dir)
	if err == nil && info.Mode().Type() == fs.ModeSymlink {
		if err = requireOwner(dir, info); err == nil {
			if dir, err = filepath.EvalSymlinks(dir); err == nil {
				info, err = os.Lstat(dir)
			}
		}
	}
	if err != nil {
		return i, err
	}
	if err := requireSafe(dir, info); err != nil {
		return i, err
	}
	i = Inspection{Path: filepath.Join(dir, databaseName), Newest: len(migrations), Free: -1}
	if free, ok := freeBytes(dir); ok {
		i.Free = free
	}
	i.Damaged, _ = damagedCopies(dir)
	info, err = os.Lstat(i.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return i, nil
	}
	if err != nil {
		return i, err
	}
	if err := requireOwner(i.Path, info); err != nil {
		return i, err
	}
	if !info.Mode().IsRegular() {
		return i, fmt.Errorf("%s cannot be opened: it is a %s; move it away or choose another state folder", i.Path, kindOf(info))
	}
	i.Bytes = sizeOf(i.Path) + sizeOf(i.Path+"-wal")
	i.Schema, err = schemaInHeader(i.Path)
	return i, err
}

// schemaInHeader returns the version in the header of a database, or 0 if its file is empty.
func schemaInHeader(path string) (int, error) {
	// The file may be replaced meanwhile.
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	header := make([]byte, headerBytes)
	n, err := io.ReadFull(file, header)
	switch {
	case n == 0 && errors.Is(err, io.EOF):
		return 0, nil
	case err != nil && !errors.Is(err, io.ErrUnexpectedEOF):
		return 0, err
	case !strings.HasPrefix(string(header[:n]), headerMagic) || n < headerBytes:
		return 0, fmt.Errorf("%s is no SQLite database; the next recorder sets it aside", path)
	}
	return int(binary.BigEndian.Uint32(header[versionOffset:])), nil
}
