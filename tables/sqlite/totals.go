package sqlite

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
)

// totals are the number and the sum of the stored events by kind: 1 is that of the
// unprivileged ones. They count the rows that Append added and Expire has not deleted,
// whatever else happened to the table.
type totals struct {
	After int64 // the sums are those of the events after this EID
	Last  int64 // EID of the last event
	// Closed is the EID up to which all attempts to load a module are closed, see CloseLoads.
	Closed int64 `json:",omitempty"`
	// Lost says which earlier events are lost, or cannot be checked any more. It stays until
	// they would have expired by age. That is counted from Since, a Unix time; 0 until the
	// bounds are checked.
	Lost  string `json:",omitempty"`
	Since int64  `json:",omitempty"`
	Rows  [2]int64
	Sums  [2]rowSum
}

// A rowSum is a sum of HMACs modulo 2^256, which does not depend on their order. Its least
// significant number is the first.
type rowSum [4]uint64

func (s rowSum) String() string { return fmt.Sprintf("%016x%016x%016x%016x", s[3], s[2], s[1], s[0]) }

// count adds the row of an event, or subtracts it if n is -1. An HMAC of another size is that
// of a changed row: the sum keeps the one that was stored.
func (t *totals) count(n, eid, kind int64, mac []byte) {
	t.Rows[kind&1] += n
	if eid <= t.After || len(mac) != sha256.Size {
		return
	}
	step, carry := bits.Add64, uint64(0)
	if n < 0 {
		step = bits.Sub64
	}
	sum := &t.Sums[kind&1]
	for i := range sum {
		sum[i], carry = step(sum[i], binary.LittleEndian.Uint64(mac[8*i:]), carry)
	}
}

const totalsSQL = "SELECT state, mac FROM totals WHERE id = 1"

// totalsMAC returns the HMAC of totals as text. The text of a row begins with the number of a
// group, so no row has this HMAC.
func totalsMAC(key []byte, text string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte("totals " + text))
	return mac.Sum(nil)
}

// readTotals returns the totals of the database. ok is false if it has none under this key, or
// older ones than those of an event that Append has stored; wereBegun is false if it never had
// any.
func readTotals(ctx context.Context, tx *sql.Tx, key []byte, stored int64) (t totals, ok, wereBegun bool, err error) {
	var text string
	var mac []byte
	err = tx.QueryRowContext(ctx, totalsSQL).Scan(&text, &mac)
	if errors.Is(err, sql.ErrNoRows) {
		return t, false, true, nil
	}
	ok = err == nil && hmac.Equal(mac, totalsMAC(key, text)) && json.Unmarshal([]byte(text), &t) == nil && t.Last >= stored
	return t, ok, text != "", err
}

// changeTotals calls change in a transaction, and then stores the totals if they have changed.
// If the database has no totals under the key, they begin anew: with the number of the events
// that are there, and without a sum of them.
func (s *Store) changeTotals(ctx context.Context, db *database, change func(tx *sql.Tx, t *totals) error) error {
	if s.rowKey == nil {
		s.keepKey()
		s.makeKey() // if it cannot be read, the totals begin anew
	}
	tx, err := db.writer.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	before, ok, wereBegun, err := readTotals(ctx, tx, s.rowKey, s.state.LastEID)
	if err != nil {
		return err
	}
	t := before
	if !ok {
		t = totals{}
		const query = "SELECT (" + lastSQL + "), (SELECT count(*) FROM events), (SELECT count(*) FROM events WHERE cheap = 1)"
		if err := tx.QueryRowContext(ctx, query).Scan(&t.After, &t.Rows[0], &t.Rows[1]); err != nil {
			return err
		}
		t.After = max(t.After, s.state.LastEID)
		t.Last, t.Rows[0] = t.After, t.Rows[0]-t.Rows[1]
		if t.Lost = s.lost; t.Lost == "" && (wereBegun || s.state.Begun) {
			t.Lost = fmt.Sprintf("whether events up to %d are missing or were changed by hand is unknown, "+
				"because the key or the totals of the event store were removed or changed", t.After)
		}
	}
	anew := t
	if err := change(tx, &t); err != nil || ok && t == before {
		return err
	}
	text, err := json.Marshal(t)
	if err != nil {
		return err
	}
	const query = "REPLACE INTO totals (id, state, mac) VALUES (1, ?, ?)"
	if _, err := tx.ExecContext(ctx, query, string(text), totalsMAC(s.rowKey, string(text))); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	if !ok && anew.Lost != s.lost {
		s.report(errors.New(anew.Lost))
	}
	s.state.Begun, s.lost = true, ""
	return nil
}

// endLost ends what the totals say is lost once it would have expired by age.
func (s *Store) endLost(ctx context.Context, present, oldest int64) error {
	return s.changeTotals(ctx, s.database, func(_ *sql.Tx, t *totals) error {
		switch {
		case t.Lost == "":
		case t.Since == 0:
			t.Since = present
		case t.Since < oldest:
			t.Lost, t.Since = "", 0
		}
		return nil
	})
}

// beginTotals lets the totals begin if the database has none. If it has, it takes no lock,
// which another process may hold. The caller holds mu, or is Open.
func (s *Store) beginTotals(ctx context.Context, db *database) error {
	if db == nil || s.rowKey == nil {
		return nil // no other database could be opened yet, or the key cannot be read yet
	}
	tx, err := db.readers.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	_, ok, _, err := readTotals(ctx, tx, s.rowKey, s.state.LastEID)
	tx.Rollback()
	if err != nil || ok {
		s.state.Begun = s.state.Begun || ok
		return err
	}
	return s.changeTotals(ctx, db, func(*sql.Tx, *totals) error { return nil })
}

// deleteEvents deletes the events whose EIDs a query selects, also from what a check has read,
// and returns their number. In the transaction it calls before first. The caller holds mu.
func (s *Store) deleteEvents(ctx context.Context, before func(*sql.Tx) error, eids string, args ...any) (n int64, err error) {
	read := s.pass.found
	err = s.changeTotals(ctx, s.database, func(tx *sql.Tx, t *totals) error {
		if err := before(tx); err != nil {
			return err
		}
		rows, err := tx.QueryContext(ctx, "DELETE FROM events WHERE eid IN ("+eids+") RETURNING eid, cheap, mac", args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for ; rows.Next(); n++ {
			var eid, kind int64
			var mac []byte
			if err := rows.Scan(&eid, &kind, &mac); err != nil {
				return err
			}
			t.count(-1, eid, kind, mac)
			if eid <= read.Last {
				read.count(-1, eid, kind, mac)
			}
		}
		return rows.Err()
	})
	if err != nil || n == 0 {
		return 0, err
	}
	s.pass.found = read
	s.changes++
	return n, nil
}
