package sqlite

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/kmodquery/kmodquery/internal/lookup"
)

const (
	// openWait bounds how long a reader waits for the recorder to create the database,
	// and openPoll is the interval at which it tries.
	openWait = 10 * time.Second
	openPoll = 20 * time.Millisecond
	// abandonedWait bounds how long Status and Close wait for a call whose caller has left.
	abandonedWait = time.Second
)

// Options bound what a [Store] keeps.
type Options struct {
	MaxAge          time.Duration    // older events are deleted; 0 keeps any age
	MaxEvents       int64            // events kept, unprivileged ones not counted; 0 keeps any number
	MaxUnprivileged int64            // events kept that are unprivileged by [kmodquery.Event.IsUnprivileged]; 0 keeps any number
	ReadOnly        bool             // never become the recorder
	Now             func() time.Time // the wall clock; nil is time.Now
	// Elapsed is the time since an arbitrary moment, which no one can set; nil is the
	// monotonic clock.
	Elapsed func() time.Duration
	// Kernel is the running kernel's release, and BootID the boot's id. Without a release the
	// store leaves Changed as it is.
	Kernel, BootID string
	// Users returns a function that returns the name of a user id, or "". Nil knows no names.
	Users func() func(uid int64) string
	// Report is called with each error that no method returns, such as that the database
	// was damaged, from any goroutine. It may be nil.
	Report func(error)

	// For tests; 0 is replaced by the default.
	busyTimeout time.Duration
}

// Default bounds.
const (
	DefaultMaxAge          = 90 * 24 * time.Hour
	DefaultMaxEvents       = 1_000_000
	DefaultMaxUnprivileged = 100_000
)

// A Store is an open event store. All methods may be called concurrently.
type Store struct {
	path    string
	options Options
	failed  atomic.Int64 // batches that could not be written
	damaged atomic.Int64 // rows that did not match their checksums
	records bool         // this process is the recorder
	gapRead atomic.Bool  // see GapRead

	statuses *lookup.Runner[statusRead]

	// lock is the recorder's lock file; nil in a reader. It changes while mu is held.
	lock atomic.Pointer[os.File]
	// locking is held while this process tries to take the lock again, so that two tries do
	// not take each other for another process.
	locking sync.Mutex

	// mu serializes batches and guards the fields below. It is taken before gate. The
	// times are elapsed times; 0 means never.
	mu          sync.Mutex
	age         *ageClock
	state       lockState
	nextExpiry  time.Time
	appended    int           // events since the bounds were last found to hold
	chunk       int           // the most events that one transaction deletes
	slice       int           // the most rows that one step of Verify reads
	walLimit    int64         // bytes; maxWAL except in tests
	truncatedAt time.Duration // when truncateLongWAL last truncated the log
	recreatedAt time.Duration // when the database was last set aside
	suspectedAt time.Duration // when SQLite last reported damage that a check did not find
	rowKey      []byte        // of the rows' HMACs; nil in a reader, and until it was read
	keyIsKept   bool          // the file has had this key
	pass        pass          // the check of the rows that is under way
	changes     int           // transactions that deleted events, and other databases
	cursors     cursors       // with locks of their own
	loads       openLoads     // with a lock of its own
	mostLoads   int           // maxOpenLoads except in tests
	lost        string        // which events are lost, reported and not in the totals yet
	recreated   bool          // the database was recreated or replaced since Open

	notes sync.Map // texts by subject, see note

	// gate is held for reading by reads, and for writing while another database is put
	// in place; the recorder then holds mu too.
	gate sync.RWMutex
	*database
}

// Open opens the event store in the folder dir and creates both if they do not exist.
// The first process that opens the store is the recorder until it closes the store or
// ends. Every other process is a reader, as [Store.Status] reports. A reader waits
// until the recorder has created the database.
//
// A damaged database is renamed to a name with the time, and a new one is created. A
// database of another program or of a newer version is left alone, as is a folder in
// which other users may write. On a full disk the recorder starts without a database,
// and the first Append that succeeds creates it.
func Open(ctx context.Context, dir string, o Options) (*Store, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Elapsed == nil {
		opened := time.Now()
		o.Elapsed = func() time.Duration { return time.Since(opened) }
	}
	o.busyTimeout = cmp.Or(o.busyTimeout, defaultBusyTimeout)
	s, err := open(ctx, dir, o)
	if err == nil {
		return s, nil
	}
	if path := new(fs.PathError); errors.As(err, &path) {
		remedy := "run as a user who may write there"
		switch {
		case errors.Is(err, syscall.EROFS):
			remedy = "mount it for writing, or add it to ReadWritePaths= of the systemd unit,"
		case os.Geteuid() != 0:
			remedy = "run as root"
		}
		return nil, fmt.Errorf("open event store: %w; %s or choose another state folder", err, remedy)
	}
	return nil, fmt.Errorf("open event store: %w", err)
}

func open(ctx context.Context, dir string, o Options) (*Store, error) {
	dir, err := secure(dir)
	if err != nil {
		return nil, err
	}
	s := &Store{path: filepath.Join(dir, databaseName), options: o, chunk: expiryChunk, slice: verifyRows, walLimit: maxWAL, mostLoads: maxOpenLoads,
		cursors: cursors{turn: make(chan struct{}, 1)}, loads: openLoads{turn: make(chan struct{}, 1)}, statuses: lookup.New[statusRead]()}
	s.statuses.Patience = abandonedWait
	for deadline := time.Now().Add(openWait); ; {
		var lock *os.File
		if !o.ReadOnly {
			if lock, err = tryLock(dir); err != nil {
				return nil, err
			}
		}
		s.lock.Store(lock)
		if s.records = lock != nil; s.records {
			s.state = readLockState(lock)
			s.age = newAgeClock(s.state, o.MaxAge)
			if err = s.openRecorder(ctx); isFullIn(err, dir) {
				s.report(explain(err, dir))
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

// openRecorder opens the database for writing. It recreates a damaged one.
func (s *Store) openRecorder(ctx context.Context) error {
	openDatabase := func() (*database, error) { return openWritable(ctx, s.path, s.state, s.options.busyTimeout) }
	db, err := openDatabase()
	if isDamage(err) {
		if unread := readThrough(s.path); unread != nil {
			return unread
		}
		db, err = openDatabase()
	}
	if isDamage(err) {
		if err := s.clearPath(err); err != nil {
			return err
		}
		db, err = openDatabase()
	}
	if err != nil {
		return err
	}
	if err := s.continueEIDs(ctx, db); err != nil {
		return errors.Join(err, db.close())
	}
	s.keepKey()
	// Without space, or while another process keeps the database locked, the first batch that
	// can be stored does this.
	if err := s.beginTotals(ctx, db); isDamage(err) {
		return errors.Join(err, db.close())
	}
	s.pass = pass{}
	s.changes++
	s.database = db
	s.state.Device, s.state.Inode = identity(db.info)
	s.state.Schema = len(migrations)
	// Without the state, a later damage may look like the database of another program,
	// which is refused with an error that says so.
	_ = writeLockState(s.lock.Load(), s.state)
	return nil
}

// continueEIDs makes the EIDs of a database continue after all that were ever
// assigned, and reports if events are lost.
func (s *Store) continueEIDs(ctx context.Context, db *database) error {
	var last int64
	if err := db.last.QueryRowContext(ctx).Scan(&last); err != nil {
		return err
	}
	if lost := s.state.LastEID - last; lost > 0 && s.state.Inode != 0 {
		text := fmt.Sprintf("events between eid %d and eid %d are lost: the database was removed or an older one put in its place", last, s.state.LastEID)
		if s.state.isOf(db.info) {
			// SQLite ignores the part of a log that follows a damaged frame.
			text = fmt.Sprintf("the last %d events are lost: the write-ahead log was truncated or an older database put in its place", lost)
		}
		s.lost = text
		s.report(errors.New(text))
	}
	to := s.state.LastEID
	if s.recreated {
		// The last EID may be unknown. The time in milliseconds is larger than any EID of
		// a store that counts from 1.
		to = max(to, s.options.Now().UnixMilli())
	}
	if last >= to {
		return nil
	}
	return db.skipTo(ctx, to)
}

// errUnfinished matches errors that say that the recorder has not created the database
// yet.
var errUnfinished = errors.New("is not ready")

func (s *Store) openReader(ctx context.Context) error {
	db, err := openReadable(ctx, s.path, s.options.busyTimeout)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s %w: the process that holds %s has not created it; see the output of that process",
			s.path, errUnfinished, filepath.Join(filepath.Dir(s.path), lockName))
	case isDamage(err):
		return fmt.Errorf("%s %w: %w; restart the process that records", s.path, errUnfinished, err)
	case err != nil:
		return err
	}
	s.database = db
	return nil
}

// use calls f with the current database.
func (s *Store) use(ctx context.Context, f func(*database) error) error {
	for {
		db, err := s.tryUse(f)
		if db != nil {
			return s.readFailed(ctx, db, err)
		}
		if err := s.renew(ctx); err != nil {
			return err
		}
	}
}

// tryUse calls f with the current database and returns both. It returns no database if
// the current one is stale. A table recovers from a panic of f, so the gate must open.
func (s *Store) tryUse(f func(*database) error) (*database, error) {
	s.gate.RLock()
	defer s.gate.RUnlock()
	if s.isStale() {
		return nil, nil
	}
	return s.database, f(s.database)
}

func (s *Store) renew(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reopen(ctx)
}

// Check creates the recorder's folder, lock and database again if they were removed. While
// events are appended it does nothing, because Append does so too. In a reader it does
// nothing.
func (s *Store) Check(ctx context.Context) error {
	if !s.records || !s.mu.TryLock() {
		return nil
	}
	defer s.mu.Unlock()
	return s.reopen(ctx)
}

// isStale reports whether no database is open, or another one is at the path. A reader
// keeps a database that was only removed, because the recorder is about to create
// another one. The caller holds the gate or mu.
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

// reopen opens the database at the path if it is not the open one. It returns an error
// if the recorder has lost its lock to another process. The caller holds mu.
func (s *Store) reopen(ctx context.Context) error {
	if err := s.keepLock(); err != nil {
		return err
	}
	if s.records && !s.isStale() {
		return nil // without the gate, so that reads do not block writes
	}
	s.gate.Lock()
	defer s.gate.Unlock()
	if !s.isStale() {
		return nil
	}
	if old := s.database; old != nil {
		s.database = nil
		_ = old.close() // its file has no name any more
		if s.records {
			s.recreated = true
			s.report(fmt.Errorf("%s was removed or replaced; the event store continues with another one", s.path))
		}
	}
	if s.records {
		return s.openRecorder(ctx)
	}
	return s.openReader(ctx)
}

func (s *Store) elapsed() time.Duration { return s.options.Elapsed() }

func (s *Store) report(err error) {
	if s.options.Report != nil {
		s.options.Report(err)
	}
}

// Close closes the store. If it was the recorder, the next process that opens the
// store becomes the recorder. No other call may be in progress.
func (s *Store) Close() error {
	s.statuses.Await(context.Background(), "")
	s.loads.await()
	var errs []error
	if s.database != nil {
		if s.records {
			s.tellTime()
		}
		errs = append(errs, s.close())
	}
	// The lock comes last: no other process may record before the writer is closed.
	if lock := s.lock.Swap(nil); lock != nil {
		errs = append(errs, lock.Close())
	}
	s.database, s.records = nil, false
	return errors.Join(errs...)
}
