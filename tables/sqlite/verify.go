package sqlite

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kmodquery/kmodquery"
)

const (
	// verifyRows is the most rows that Verify reads in verifyInterval, and verifyPause the
	// time between two checks of all rows.
	verifyRows     = 250
	verifyInterval = time.Second
	verifyPause    = 10 * time.Minute
	// maxNamed bounds the EIDs that a finding names.
	maxNamed = 10
)

// A pass is a check of all rows that has come as far as found.Last.
type pass struct {
	begun bool
	found totals // of the rows that were read
	// The first rows that do not match their checksums, and those that do, but not their HMACs.
	damaged, forged []int64
}

// Verify compares each row with its checksums and its HMAC, and all rows with the totals, a
// few rows a second and again and again until ctx ends. [Store.Loss] says what it found. In a
// reader it returns at once.
func (s *Store) Verify(ctx context.Context) {
	for pause := verifyInterval; s.records; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = verifyInterval
		done, err := s.verifySlice(ctx)
		if done || err != nil {
			pause = verifyPause
		}
	}
}

// verifySlice checks the next rows and reports whether they were the last. It reads without
// the lock, so that it holds up no batch. A slice during which events expired counts as not
// read.
func (s *Store) verifySlice(ctx context.Context) (done bool, err error) {
	defer func() {
		if err != nil && ctx.Err() == nil {
			s.note("check", fmt.Sprintf("the rows of %s cannot be checked: %v", s.path, err))
		}
	}()
	if !s.IsRecorder() {
		return true, nil // the key in the folder may be another recorder's
	}
	s.mu.Lock()
	if !s.pass.begun {
		s.keepKey()
	}
	p, key, last, most, changes := s.pass, s.rowKey, s.state.LastEID, s.slice, s.changes
	s.mu.Unlock()
	if key == nil {
		return true, nil
	}

	var finding string
	var ok bool
	err = s.use(ctx, func(db *database) (err error) {
		finding, ok, done, err = p.read(ctx, db, key, last, most)
		return err
	})

	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil && s.changes != changes {
		return false, nil
	}
	if s.pass = p; err != nil || done {
		s.pass = pass{}
	}
	if err != nil {
		return true, err
	}
	if !ok {
		return true, s.beginTotals(ctx, s.database)
	}
	if done {
		s.note("check", "")
	}
	// Until the pass ends, the finding of the last one may have more rows.
	if last, _ := s.notes.Load("rows"); done || finding != "" && (last == nil || last == "") {
		s.note("rows", finding)
	}
	return done, nil
}

// read reads up to most rows more and the totals of the same moment. A row that is too long
// counts as missing. It returns what is wrong with the rows so far, whether there are totals
// under the key, and whether these rows are the last.
func (p *pass) read(ctx context.Context, db *database, key []byte, last int64, most int) (finding string, ok, done bool, err error) {
	tx, err := db.readers.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return "", false, false, err
	}
	defer tx.Rollback()
	t, ok, _, err := readTotals(ctx, tx, key, last)
	if err != nil || !ok {
		return "", false, true, err
	}
	if !p.begun || p.found.After != t.After {
		*p = pass{begun: true, found: totals{After: t.After}}
	}
	rows, err := tx.QueryContext(ctx, eventsSQL+" WHERE eid > ? AND "+fitsSQL+" ORDER BY eid LIMIT ?", p.found.Last, most)
	if err != nil {
		return "", false, false, err
	}
	defer rows.Close()
	r := newRow(kmodquery.EventColumns(), nil)
	r.checksum = newChecksummer(kmodquery.EventColumns(), key)
	var mac []byte
	var kind int64
	n := 0
	for ; rows.Next(); n++ {
		if err := rows.Scan(append(r.pointers, &mac, &kind)...); err != nil {
			return "", false, false, err
		}
		p.examine(r, mac, kind, db.unsummed)
	}
	return p.finding(&t, n < most), true, n < most, rows.Err()
}

// examine checks a row of a kind.
func (p *pass) examine(r *row, mac []byte, kind, unsummed int64) {
	eid, _ := r.values[r.checksum.eid].(int64)
	stored, isSummed := r.sums.([]byte)
	wantSums, wantMAC := r.checksum.of(r.values, kind)
	switch {
	case !isSummed && eid <= min(unsummed, p.found.After):
	case !bytes.Equal(stored, wantSums):
		p.damaged = named(p.damaged, eid)
	case eid > p.found.After && !bytes.Equal(mac, wantMAC):
		p.forged = named(p.forged, eid)
	}
	p.found.count(1, eid, kind, mac)
	p.found.Last = eid
}

// named appends the EID of a row if few are named.
func named(rows []int64, eid int64) []int64 {
	if len(rows) > maxNamed {
		return rows
	}
	return append(slices.Clip(rows), eid)
}

func names(rows []int64) string {
	text := strings.Trim(fmt.Sprint(rows[:min(len(rows), maxNamed)]), "[]")
	if len(rows) > maxNamed {
		text += " and others"
	}
	return text
}

// finding says in one line what is wrong, given the totals of the moment in which the last
// rows were read.
func (p *pass) finding(t *totals, done bool) string {
	var all []string
	if p.damaged != nil {
		all = append(all, "rows with eid "+names(p.damaged)+" do not match their checksums: the disk or the memory failed, or they were changed by hand")
	}
	if p.forged != nil {
		all = append(all, "rows with eid "+names(p.forged)+" match their checksums, and not the key: they were changed or added by hand")
	}
	if done && all == nil && (p.found.Rows != t.Rows || p.found.Sums != t.Sums) {
		all = append(all, "the rows are not those that were stored, although each matches the key: some were deleted, added or exchanged by hand, "+
			"or were changed by hand or by the disk before they expired")
	}
	return strings.Join(all, "; ")
}

// note keeps a defect that only the recorder knows, by its subject, and reports it; "" says
// that there is none any more.
func (s *Store) note(subject, text string) {
	if last, _ := s.notes.Swap(subject, text); text != "" && text != last {
		s.report(errors.New(text))
	}
}
