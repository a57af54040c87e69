package loaded

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"
)

// A fingerprint changes when the files of a database are written to.
type fingerprint struct {
	size, walSize       int64
	changed, walChanged time.Time
}

func fingerprintOf(path string) (fingerprint, error) {
	info, err := os.Stat(path)
	if err != nil {
		return fingerprint{}, err
	}
	f := fingerprint{size: info.Size(), changed: info.ModTime()}
	if wal, err := os.Stat(path + "-wal"); err == nil {
		f.walSize, f.walChanged = wal.Size(), wal.ModTime()
	}
	return f, nil
}

// copyDatabase copies a database and its write-ahead log in a consistent state.
func copyDatabase(from, to string) error {
	for range copyTries {
		before, err := fingerprintOf(from)
		if err != nil {
			return err
		}
		if err := copyFile(from, to); err != nil {
			return err
		}
		if err := copyFile(from+"-wal", to+"-wal"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if after, err := fingerprintOf(from); err == nil && after == before {
			return nil
		}
		if err := os.Remove(to + "-wal"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return errors.New("it changes all the time")
}

func copyFile(from, to string) error {
	source, err := openRegular(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(target, io.LimitReader(source, maxPolicy+1))
	if closeErr := target.Close(); err == nil {
		err = closeErr
	}
	if err == nil && n > maxPolicy {
		err = fmt.Errorf("it has more than %d bytes", maxPolicy)
	}
	return err
}

// openRegular opens a regular file. Any other file is an error; opening a pipe does not
// block.
func openRegular(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}
