-- Sums over an event's values, so that a row that is not what was written is
-- never handed out: SQLite does not notice a byte that changed on disk. NULL in
-- the rows that were there before this migration.
ALTER TABLE events ADD COLUMN sums BLOB;

-- The last of the events that have no sums.
CREATE TABLE unsummed (eid INTEGER NOT NULL) STRICT;
INSERT INTO unsummed SELECT coalesce(max(eid), 0) FROM events;

ALTER TABLE positions ADD COLUMN sum INTEGER;
