package sqlite

import (
	"context"
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
	// openWait bounds how long a reader waits for the recorder to finish the
	// database, and openPoll is how often it looks.
	openWait = 10 * time.Second
	openPoll = 20 * time.Millisecond
)

// Options bound what a [Store] keeps.
type Options struct {
	MaxAge    time.Duration    // events older than this leave; 0 keeps any age
	MaxEvents int64            // the newest that stay, cheap ones aside; 0 keeps any number
	MaxCheap  int64            // the newest that stay of those that are cheap by [kmodquery.Event.IsUnprivileged]; 0 keeps any number
	Now       func() time.Time // the wall clock; nil is time.Now
	// Report is told, one error a time and from any goroutine, what happens to
	// the store that no call returns: that it was damaged. Nil is for none.
	Report func(error)

	elapsed func() time.Duration // since any moment, whatever the wall clock does; nil is since Open
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
	damaged atomic.Int64 // rows that were not what was written
	torn    atomic.Int64 // events that the log of the database has lost
	records bool         // this is the recorder
	// lock is the recorder's; nil in a reader. It changes while mu is held.
	lock atomic.Pointer[os.File]

	// mu orders batches and guards what follows. It is taken before gate.
	mu         sync.Mutex
	age        *ageClock
	mark       mark
	nextExpiry time.Time
	appended   int           // events since the bounds were last seen to hold
	chunk      int           // the most events that one transaction deletes
	logLimit   int64         // bytes; maxLog but in tests
	shortened  time.Duration // elapsed time when that was last done; 0 never
	healed     time.Duration // elapsed time when the database was last set aside; 0 never
	doubted    time.Duration // elapsed time when it was last found good though SQLite had called it damaged; 0 never
	begun      bool          // that was done

	// gate is held by who reads, and wholly by who puts another database in
	// place, which in the recorder holds mu too.
	gate sync.RWMutex
	*database
}

// Open opens the event store in the folder dir and makes both where they do
// not exist. The first to open it is the recorder until it closes or ends;
// every other one is a reader, which [Store.Status] tells. A reader waits
// until the recorder has made the database.
//
// A database that is damaged is set aside under another name, with the time, and
// a new one begun; one of another program or of a newer version is left as it
// was, and so is everything in a folder in which others may write. On a full disk
// the recorder begins without a database, which its first Append puts in place.
func Open(ctx context.Context, dir string, o Options) (*Store, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.elapsed == nil {
		opened := time.Now()
		o.elapsed = func() time.Duration { return time.Since(opened) }
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
	dir, err := secure(dir)
	if err != nil {
		return nil, err
	}
	s := &Store{path: filepath.Join(dir, databaseName), options: o, chunk: expiryChunk, logLimit: maxLog}
	for deadline := time.Now().Add(openWait); ; {
		lock, err := tryLock(dir)
		if err != nil {
			return nil, err
		}
		s.lock.Store(lock)
		if s.records = lock != nil; s.records {
			s.mark = readMark(lock)
			s.age = newAgeClock(s.mark.trusted(), o.MaxAge)
			if err = s.openRecorder(ctx); isFullIn(err, dir) {
				s.report(refuse(err, dir))
				return s, nil
			}
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

// openRecorder puts a database in place, a new one where that is damaged.
func (s *Store) openRecorder(ctx context.Context) error {
	db, err := openWritable(ctx, s.path, s.mark)
	if isDamage(err) {
		if unread := readThrough(s.path); unread != nil {
			return unread
		}
		db, err = openWritable(ctx, s.path, s.mark)
	}
	if isDamage(err) {
		if err := s.beginAnew(err); err != nil {
			return err
		}
		db, err = openWritable(ctx, s.path, s.mark)
	}
	if err != nil {
		return err
	}
	if err := s.goOn(ctx, db); err != nil {
		return errors.Join(err, db.close())
	}
	s.database = db
	s.mark.Device, s.mark.Inode = identity(db.info)
	s.mark.Schema = len(migrations)
	// Without it a later damage may be taken for another program's database,
	// which is refused with a line that says so.
	_ = writeMark(s.lock.Load(), s.mark)
	return nil
}

// goOn makes the EIDs of a database go on behind all that were ever given, and
// tells where it lacks some of them.
func (s *Store) goOn(ctx context.Context, db *database) error {
	var last int64
	if err := db.last.QueryRowContext(ctx).Scan(&last); err != nil {
		return err
	}
	if lost := s.mark.Last - last; lost > 0 && s.mark.isOf(db.info) {
		// SQLite takes a torn log for one that ends there.
		s.torn.Add(lost)
		s.report(fmt.Errorf("the last %d events of %s are gone: its log was torn", lost, s.path))
	}
	to := s.mark.Last
	if s.begun {
		// It may not be known what was given. Where events are counted from 1
		// it is less than where milliseconds are.
		to = max(to, s.options.Now().UnixMilli())
	}
	if last >= to {
		return nil
	}
	return db.skip(ctx, to)
}

// errUnfinished says that the recorder has not made the database yet.
var errUnfinished = errors.New("is not ready")

func (s *Store) openReader(ctx context.Context) error {
	db, err := openReadable(ctx, s.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s %w: the process that holds %s has not made it; see what that process says",
			s.path, errUnfinished, filepath.Join(filepath.Dir(s.path), lockName))
	case isDamage(err):
		return fmt.Errorf("%s %w: %w; restart the process that records", s.path, errUnfinished, err)
	case err != nil:
		return err
	}
	s.database = db
	return nil
}

// use calls f with the database, which a reader opens again where another one has
// taken its place.
func (s *Store) use(ctx context.Context, f func(*database) error) error {
	db, err := s.enter(ctx)
	if err != nil {
		return err
	}
	err = f(db)
	s.gate.RUnlock()
	return s.healRead(ctx, db, err)
}

// enter returns the database with the gate held for reading.
func (s *Store) enter(ctx context.Context) (*database, error) {
	for {
		s.gate.RLock()
		if !s.isStale() {
			return s.database, nil
		}
		s.gate.RUnlock()
		if err := s.renew(ctx); err != nil {
			return nil, err
		}
	}
}

func (s *Store) renew(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reopen(ctx)
}

// isStale reports whether another database is to be opened: none is, or another
// one lies at the path. A reader keeps one that was only taken away, for the
// recorder is about to put another one there. The caller holds the gate or mu.
func (s *Store) isStale() bool {
	if s.database == nil {
		return true
	}
	now, err := os.Lstat(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return s.records
	}
	return err == nil && !os.SameFile(now, s.info)
}

// reopen opens the database that lies at the path where that is not the one that
// is open. It is an error where the recorder has lost its lock to another process.
// The caller holds mu.
func (s *Store) reopen(ctx context.Context) error {
	if err := s.keepLock(); err != nil {
		return err
	}
	if s.records && !s.isStale() {
		return nil // without the gate: what is stored must not wait for who reads
	}
	s.gate.Lock()
	defer s.gate.Unlock()
	if !s.isStale() {
		return nil
	}
	if old := s.database; old != nil {
		s.database = nil
		_ = old.close() // its file is nobody's any more
		if s.records {
			s.begun = true
			s.report(fmt.Errorf("%s was taken away; the event store goes on with another one", s.path))
		}
	}
	if s.records {
		return s.openRecorder(ctx)
	}
	return s.openReader(ctx)
}

func (s *Store) elapsed() time.Duration { return s.options.elapsed() }

func (s *Store) report(err error) {
	if s.options.Report != nil {
		s.options.Report(err)
	}
}

// Close ends the store and, in the recorder, hands the role to the next one
// that opens it. No other call may be under way.
func (s *Store) Close() error {
	var errs []error
	if s.database != nil {
		errs = append(errs, s.close())
	}
	// Last: nobody may record before the writer is closed.
	if lock := s.lock.Swap(nil); lock != nil {
		errs = append(errs, lock.Close())
	}
	s.database, s.records = nil, false
	return errors.Join(errs...)
}

// skip makes the EIDs begin behind one.
func (d *database) skip(ctx context.Context, to int64) error {
	// That table has neither a key nor, before the first event, a row.
	for _, sql := range []string{"DELETE FROM sqlite_sequence WHERE name = 'events'", "INSERT INTO sqlite_sequence (seq, name) VALUES (?1, 'events')"} {
		if _, err := d.writer.ExecContext(ctx, sql, to); err != nil {
			return err
		}
	}
	return nil
}
