package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"math/bits"
	"regexp"
	"strconv"
	"time"

	sqlite3 "modernc.org/sqlite/lib"
)

// checkTime bounds the check of a database's structure when it is opened. Damage
// that the check does not reach is found when it is read.
const checkTime = time.Second

// errDamaged matches errors that say that a database does not hold what was written.
var errDamaged = errors.New("the database is damaged")

// isDamage reports whether an error comes from a database that does not hold what
// was written. The statements of this package cannot violate a constraint of a sound
// database.
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

// classify returns an error of prepare as damage if it is: if the header is that of
// another program or version, but the database has this program's tables or was
// found good before.
func classify(ctx context.Context, err error, db *sql.DB, known lockState, info fs.FileInfo) error {
	wasGood := known.isOf(info) && known.Schema == len(migrations)
	newer := new(newerError)
	switch {
	case errors.Is(err, errForeign) && hasOurTables(ctx, db),
		errors.Is(err, errText) && known.isOf(info),
		errors.As(err, &newer) && wasGood && isFlipped(newer.version):
		return fmt.Errorf("%w: %w", errDamaged, err)
	case wasGood:
		return schemaError(err) // no migration was needed
	}
	return err
}

// hasOurTables reports whether a database has two tables that no other program's
// database has both of.
func hasOurTables(ctx context.Context, db *sql.DB) bool {
	var n int
	err := db.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_schema WHERE name IN ('events', 'seen', 'positions', 'unsummed')").Scan(&n)
	return err == nil && n >= 2
}

// isFlipped reports whether a schema version that is too new is more likely this
// program's version changed on disk than that of a newer program: it differs in one
// bit, or is implausibly large.
func isFlipped(version int) bool {
	return version != len(migrations)+1 && bits.OnesCount(uint(version^len(migrations))) == 1 || version > 1<<16
}

// schemaError returns an error of a statement as damage if the statement does not
// match the schema. It is for statements that match every sound schema.
func schemaError(err error) error {
	if code, ok := codeOf(err); ok && code&0xff == sqlite3.SQLITE_ERROR {
		return fmt.Errorf("%w: %w", errDamaged, err)
	}
	return err
}

// check checks the structure of the database and, if time permits, that its indexes
// have every event.
func check(ctx context.Context, db *sql.DB) error {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	for _, pragma := range []string{"quick_check", "integrity_check"} {
		var found string
		err := db.QueryRowContext(ctx, "PRAGMA "+pragma+"(1)").Scan(&found)
		if ctx.Err() != nil {
			return nil // if the caller's context ended, its next statement fails
		}
		if err != nil {
			return err
		}
		if found != "ok" {
			return checkError(found)
		}
	}
	return nil
}

// pageError matches the message of a check that could not read a page.
var pageError = regexp.MustCompile(`error code=(\d+)`)

// checkError returns the error for what a check found. A page that the disk does not
// return is no damage.
func checkError(found string) error {
	if match := pageError.FindStringSubmatch(found); match != nil {
		if code, _ := strconv.Atoi(match[1]); code&0xff != sqlite3.SQLITE_CORRUPT && code&0xff != sqlite3.SQLITE_NOTADB {
			return fmt.Errorf("check the database: %s", found)
		}
	}
	return fmt.Errorf("%w: %s", errDamaged, found)
}
