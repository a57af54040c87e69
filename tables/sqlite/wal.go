package sqlite

import (
	"context"
	"time"
)

const (
	// checkpointTime bounds the wait for readers at a checkpoint that has to finish
	// soon.
	checkpointTime = time.Second
	// maxWAL bounds the write-ahead log. SQLite restarts the log only at a moment
	// without readers, which never comes if reads always overlap. If the log is
	// longer, new reads wait until the current ones have finished, at most once in
	// truncateInterval.
	maxWAL           = 2 * walBytes
	truncateInterval = time.Minute
)

// checkpoint writes the write-ahead log back into the database and truncates it.
func (s *Store) checkpoint(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkpointTime)
	defer cancel()
	_, err := s.writer.ExecContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)")
	return err
}

// If the write-ahead log exceeds its limit, truncateLongWAL waits for the current reads
// and truncates it. Reads of other processes may prevent that; a later call tries again.
// The caller holds mu.
func (s *Store) truncateLongWAL(ctx context.Context) {
	elapsed := s.elapsed()
	if sizeOf(s.path+"-wal") <= s.walLimit || s.truncatedAt != 0 && elapsed-s.truncatedAt < truncateInterval {
		return
	}
	s.truncatedAt = max(elapsed, 1)
	s.gate.Lock()
	defer s.gate.Unlock()
	_ = s.checkpoint(ctx) // a disk that fails makes the next batch fail too
}
