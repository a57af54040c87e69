package sqlite

import (
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"syscall"
	"time"
)

// markSize is what the lock file holds. It never grows and is written at once, so
// that it can be kept up to date on a full disk.
const markSize = 256

// A mark is what the recorder notes in the lock file, apart from the database: by
// it a damaged event store is known from a file that never was one, and from one
// of a newer version.
type mark struct {
	Device  uint64 `json:"device"` // of the database that was found good
	Inode   uint64 `json:"inode"`
	Schema  int    `json:"schema"`  // its version
	Last    int64  `json:"last"`    // EID; the last that Append gave, or one before
	Trusted int64  `json:"trusted"` // Unix time in seconds that the age of events was last counted from; 0 for none
}

// readMark reads the mark; the zero one where there is none that can be read.
func readMark(lock io.ReaderAt) mark {
	text := make([]byte, markSize)
	n, _ := lock.ReadAt(text, 0) // no mark is an answer
	return parseMark(text[:n])
}

func parseMark(text []byte) mark {
	var m mark
	if err := json.Unmarshal(text, &m); err != nil || m.Schema < 0 || m.Last < 0 || m.Last > maxEID || m.Trusted < 0 {
		return mark{}
	}
	return m
}

func writeMark(lock io.WriterAt, m mark) error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if _, err := lock.WriteAt(fmt.Appendf(nil, "%-*s\n", markSize-1, text), 0); err != nil {
		return fmt.Errorf("note the state of the event store: %w", err)
	}
	return nil
}

// isOf reports whether the mark was made of this file.
func (m mark) isOf(info fs.FileInfo) bool {
	device, inode := identity(info)
	return m.Inode != 0 && m.Device == device && m.Inode == inode
}

func (m mark) trusted() time.Time {
	if m.Trusted == 0 {
		return time.Time{}
	}
	return time.Unix(m.Trusted, 0)
}

// identity is what no two files have at a time.
func identity(info fs.FileInfo) (device, inode uint64) {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(stat.Dev), stat.Ino //nolint:unconvert // an int32 on darwin
	}
	return 0, 0
}
