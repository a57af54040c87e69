package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

const (
	databaseName = "events.db"
	lockName     = "lock"

	// openWait bounds how long a reader waits for the recorder to finish the
	// database, and openPoll is how often it looks.
	openWait = 10 * time.Second
	openPoll = 20 * time.Millisecond
)

// Options bound what a [Store] keeps.
type Options struct {
	MaxAge    time.Duration    // events older than this leave; 0 keeps any age
	MaxEvents int64            // the newest that stay, cheap ones aside; 0 keeps any number
	MaxCheap  int64            // the newest that stay of those that are cheap by [kmodquery.Event.IsCheap]; 0 keeps any number
	Now       func() time.Time // the wall clock; nil is time.Now
}

// Bounds for a host on which nothing else was asked for.
const (
	DefaultMaxAge    = 90 * 24 * time.Hour
	DefaultMaxEvents = 1_000_000
	DefaultMaxCheap  = 100_000
)

// A Store is an open event store. All methods may be called concurrently.
type Store struct {
	path    string
	options Options
	failed  atomic.Int64 // batches that could not be written

	readers *sql.DB

	// The recorder's own; nil in a reader.
	lock   *os.File
	writer *sql.DB
	insert *sql.Stmt
	seen   *sql.Stmt

	mu         sync.Mutex // orders batches and guards what follows
	nextExpiry time.Time
	appended   int // events since the bounds were last seen to hold
}

// Open opens the event store in the folder dir and makes both where they do
// not exist. The first to open it is the recorder until it closes or ends;
// every other one is a reader, which [Store.Status] tells. A reader waits
// until the recorder has made the database. An error leaves what is on disk as
// it was.
func Open(ctx context.Context, dir string, o Options) (*Store, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	s, err := open(ctx, dir, o)
	if err == nil {
		return s, nil
	}
	if path := new(fs.PathError); errors.As(err, &path) {
		return nil, fmt.Errorf("open event store: %w; run as a user who may write there or choose another state folder", err)
	}
	return nil, fmt.Errorf("open event store: %w", err)
}

func open(ctx context.Context, dir string, o Options) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	s := &Store{path: filepath.Join(dir, databaseName), options: o}
	for deadline := time.Now().Add(openWait); ; {
		s.lock, err = tryLock(dir)
		if err != nil {
			return nil, err
		}
		if s.lock != nil {
			err = s.openRecorder(ctx)
		} else {
			err = s.openReader(ctx)
		}
		if err == nil {
			return s, nil
		}
		err = errors.Join(err, s.Close())
		if !errors.Is(err, errUnfinished) || time.Now().After(deadline) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(openPoll):
		}
	}
}

func (s *Store) openRecorder(ctx context.Context) error {
	err := create(ctx, s.path)
	if err != nil {
		return err
	}
	if s.writer, err = openWriter(s.path); err != nil {
		return err
	}
	if err := prepare(ctx, s.writer, s.path); err != nil {
		return err
	}
	if s.insert, err = s.writer.PrepareContext(ctx, insertSQL); err != nil {
		return err
	}
	if s.seen, err = s.writer.PrepareContext(ctx, seenSQL); err != nil {
		return err
	}
	s.readers, err = openReaders(s.path)
	return err
}

// errUnfinished says that the recorder has not made the database yet.
var errUnfinished = errors.New("is not ready")

func (s *Store) openReader(ctx context.Context) error {
	if _, err := os.Stat(s.path); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s %w: the process that holds %s has not made it; see what that process says",
			s.path, errUnfinished, filepath.Join(filepath.Dir(s.path), lockName))
	} else if err != nil {
		return err
	}
	var err error
	if s.readers, err = openReaders(s.path); err != nil {
		return err
	}
	version, err := version(ctx, s.readers, s.path)
	if err != nil {
		return err
	}
	if version < len(migrations) {
		return fmt.Errorf("%s %w: it has schema version %d and this program needs %d; "+
			"restart the process that records with this version", s.path, errUnfinished, version, len(migrations))
	}
	return nil
}

// Close ends the store and, in the recorder, hands the role to the next one
// that opens it. No other call may be under way.
func (s *Store) Close() error {
	var errs []error
	if s.insert != nil {
		errs = append(errs, s.insert.Close())
	}
	if s.seen != nil {
		errs = append(errs, s.seen.Close())
	}
	if s.readers != nil {
		errs = append(errs, s.readers.Close())
	}
	if s.writer != nil {
		errs = append(errs, s.writer.Close())
	}
	// Last: nobody may record before the writer is closed.
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	s.insert, s.seen, s.readers, s.writer, s.lock = nil, nil, nil, nil, nil
	return errors.Join(errs...)
}
