package sqlite

import (
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"syscall"
)

// lockStateSize is the size of the lock file's content. It never grows and is
// written in one call, so that it can be updated on a full disk.
const lockStateSize = 256

// A lockState is what the recorder keeps in the lock file, apart from the database.
// It distinguishes a damaged event store from a file that never was one, and from
// one of a newer version.
type lockState struct {
	Device      uint64 `json:"device"`  // of the database file that was last found good
	Inode       uint64 `json:"inode"`   // of the same file
	Schema      int    `json:"schema"`  // its schema version
	LastEID     int64  `json:"last"`    // the last EID that Append assigned, or an earlier one
	Begun       bool   `json:"begun"`   // the database had totals
	TrustedTime int64  `json:"trusted"` // Unix time in seconds that the age of events was last counted from; 0 if none
	Ahead       int64  `json:"ahead"`   // seconds by which the wall clock was ahead of it, if that was not accepted
	Steady      int64  `json:"steady"`  // seconds for which recorders have run since then
}

// readLockState returns the state in the lock file; the zero state if it has none.
func readLockState(lock io.ReaderAt) lockState {
	text := make([]byte, lockStateSize)
	n, _ := lock.ReadAt(text, 0) // an unreadable state counts as none
	return parseLockState(text[:n])
}

func parseLockState(text []byte) lockState {
	var s lockState
	if err := json.Unmarshal(text, &s); err != nil || s.Schema < 0 || s.LastEID < 0 || s.LastEID > maxEID || s.TrustedTime < 0 || s.Ahead < 0 || s.Steady < 0 {
		return lockState{}
	}
	return s
}

func writeLockState(lock io.WriterAt, s lockState) error {
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if _, err := lock.WriteAt(fmt.Appendf(nil, "%-*s\n", lockStateSize-1, text), 0); err != nil {
		return fmt.Errorf("write the state of the event store: %w", err)
	}
	return nil
}

// isOf reports whether the state describes this file.
func (s lockState) isOf(info fs.FileInfo) bool {
	device, inode := identity(info)
	return s.Inode != 0 && s.Device == device && s.Inode == inode
}

// identity returns the numbers that identify a file on this host.
func identity(info fs.FileInfo) (device, inode uint64) {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(stat.Dev), stat.Ino //nolint:unconvert // an int32 on darwin
	}
	return 0, 0
}
