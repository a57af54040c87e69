package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/bits"
	"os"
	"path/filepath"
	"strings"
	"time"

	sqlite3 "modernc.org/sqlite/lib"
)

const (
	// damagedMark stands between the name of the database and the time when it
	// was set aside.
	damagedMark = ".damaged-"
	// healEvery is how long a store that was begun anew is kept whatever is
	// wrong with it: where the disk breaks everything, a copy a minute is all
	// that is made of it.
	healEvery = time.Minute
	// doubtFor is how long a database that was called damaged and looked good
	// is remembered.
	doubtFor = time.Hour
	// readThroughFor bounds the time that is spent on learning whether the disk
	// gives it.
	readThroughFor = 5 * time.Second
)

// errDamaged says that a database is not what was written.
var errDamaged = errors.New("the database is damaged")

// isDamage reports whether an error comes from a database that is not what was
// written. The statements of this package cannot break a constraint of a sound
// one.
func isDamage(err error) bool {
	if errors.Is(err, errDamaged) {
		return true
	}
	code, ok := codeOf(err)
	if !ok {
		return false
	}
	switch code {
	case sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_ROWID,
		sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_NOTNULL:
		return true
	}
	return code&0xff == sqlite3.SQLITE_CORRUPT || code&0xff == sqlite3.SQLITE_NOTADB
}

// judge tells damage in what an error of prepare is of: a header that says another
// program's or another version's of a database that has this one's tables, or that
// was found good before.
func judge(ctx context.Context, err error, db *sql.DB, known mark, info fs.FileInfo) error {
	wasGood := known.isOf(info) && known.Schema == len(migrations)
	newer := new(newerError)
	switch {
	case errors.Is(err, errForeign) && hasOurTables(ctx, db),
		errors.Is(err, errText) && known.isOf(info),
		errors.As(err, &newer) && wasGood && isFlipped(newer.version):
		return fmt.Errorf("%w: %w", errDamaged, err)
	case wasGood:
		return misfit(err) // there was nothing to migrate
	}
	return err
}

// hasOurTables reports whether a database has tables that no other program's has
// together.
func hasOurTables(ctx context.Context, db *sql.DB) bool {
	var n int
	err := db.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_schema WHERE name IN ('events', 'seen', 'positions', 'unsummed')").Scan(&n)
	return err == nil && n >= 2
}

// isFlipped reports whether a schema version that is too new looks like this
// program's with something changed on disk, and not like another program's: it
// differs in one bit, or beyond what any program counts to.
func isFlipped(version int) bool {
	return version != len(migrations)+1 && bits.OnesCount(uint(version^len(migrations))) == 1 || version > 1<<16
}

// misfit tells damage in an error of a statement that fits every sound schema.
func misfit(err error) error {
	if code, ok := codeOf(err); ok && code&0xff == sqlite3.SQLITE_ERROR {
		return fmt.Errorf("%w: %w", errDamaged, err)
	}
	return err
}

// setAside renames a damaged database and what belongs to it. It deletes nothing:
// what can still be read of it is evidence. Where that would take more of the disk
// than it leaves free, it is an error.
func setAside(path string, now time.Time) (copied string, err error) {
	dir := filepath.Dir(path)
	count, bytes := damagedCopies(dir)
	if free, ok := freeBytes(dir); ok && count > 0 && bytes > free {
		return "", fmt.Errorf("%d damaged event stores lie in %s and take more than is left free; move them away", count, dir)
	}
	copied = path + damagedMark + now.UTC().Format("20060102T150405Z")
	for base, n := copied, 2; exists(copied); n++ {
		copied = fmt.Sprintf("%s.%d", base, n)
	}
	// The database first: SQLite writes nothing back into one whose name has
	// gone.
	for _, companion := range companions {
		if err := os.Rename(path+companion, copied+companion); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("set the damaged event store aside: %w", err)
		}
	}
	return copied, syncFolder(dir)
}

// exists reports whether any file of a database of this name does.
func exists(path string) bool {
	for _, companion := range companions {
		if _, err := os.Lstat(path + companion); err == nil {
			return true
		}
	}
	return false
}

// damagedCopies counts the stores that were set aside in dir.
func damagedCopies(dir string) (count int, bytes int64) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, 0
	}
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), databaseName+damagedMark) {
			continue
		}
		if info, err := entry.Info(); err == nil {
			bytes += info.Size()
		}
		if !strings.Contains(strings.TrimPrefix(entry.Name(), databaseName+damagedMark), "-") {
			count++
		}
	}
	return count, bytes
}

// healRead is what becomes of an error of reading db: where it is damaged the
// recorder sets it aside and begins a new one, and a reader looks for that.
func (s *Store) healRead(ctx context.Context, db *database, err error) error {
	if err == nil || !isDamage(err) {
		return err
	}
	if !s.records {
		s.drop(db)
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if healing := s.heal(ctx, db, err); healing != nil && !errors.Is(healing, err) {
		return fmt.Errorf("%w; %w", err, healing)
	}
	return err
}

// heal sets the damaged database aside, unless that was done, and opens a new one.
// SQLite's word alone is not taken for it, because it says the same where a disk
// did not give a page: such a database is opened again, which looks at it, and set
// aside when it is met with again. heal returns an error where the store is no
// better than before. The caller holds mu.
func (s *Store) heal(ctx context.Context, db *database, why error) error {
	if db == nil {
		return why
	}
	if s.database != db {
		return nil
	}
	elapsed := s.elapsed()
	if s.healed != 0 && elapsed-s.healed < healEvery {
		return why
	}
	s.gate.Lock()
	defer s.gate.Unlock()
	s.database = nil
	_ = db.close() // it is damaged
	if err := readThrough(s.path); err != nil {
		return err
	}
	if !errors.Is(why, errDamaged) && (s.doubted == 0 || elapsed-s.doubted > doubtFor) {
		s.doubted = max(elapsed, 1)
		return s.openRecorder(ctx)
	}
	if err := s.beginAnew(why); err != nil {
		return err
	}
	return s.openRecorder(ctx)
}

// readThrough returns the error of a disk that does not give all of the database.
// It must not be open: the locks of a process end with any descriptor that it
// closes.
func readThrough(path string) error {
	started := time.Now()
	for _, companion := range companions[:2] {
		file, err := os.Open(path + companion)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		buffer := make([]byte, 1<<20)
		for err == nil && time.Since(started) < readThroughFor {
			_, err = file.Read(buffer)
		}
		file.Close()
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	return nil
}

// beginAnew sets the database at the store's path aside and tells of it.
func (s *Store) beginAnew(why error) error {
	copied, err := setAside(s.path, s.options.Now())
	if err != nil {
		return err
	}
	s.begun, s.healed = true, max(s.elapsed(), 1)
	s.report(fmt.Errorf("%s was damaged and is now %s; a new event store was begun: %w", s.path, copied, why))
	return nil
}

// drop closes a reader's database, so that the next read opens what lies at the
// path then.
func (s *Store) drop(db *database) {
	s.gate.Lock()
	defer s.gate.Unlock()
	if s.database == db {
		s.database = nil
		_ = db.close()
	}
}

// trouble is what is wrong with the store, in one line.
func (s *Store) trouble() string {
	var all []string
	if n := s.damaged.Load(); n > 0 {
		all = append(all, fmt.Sprintf("%d rows that were read are not what was written and are not shown", n))
	}
	if n := s.torn.Load(); n > 0 {
		all = append(all, fmt.Sprintf("%d events are gone: the log of the database was torn", n))
	}
	if count, bytes := damagedCopies(filepath.Dir(s.path)); count > 0 {
		all = append(all, fmt.Sprintf("the event store was damaged and begun anew; what it was lies in %s%s* (%d of them, %d KiB): "+
			"look at it and move it away", s.path, damagedMark, count, bytes>>10))
	}
	return strings.Join(all, "; ")
}
