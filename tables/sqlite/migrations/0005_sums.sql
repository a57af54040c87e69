-- Checksums of an event's values, so that a changed row is never returned: SQLite does not
-- detect a byte that changed on disk. NULL in the rows from before this migration.
ALTER TABLE events ADD COLUMN sums BLOB;

-- The EID of the last event without checksums.
CREATE TABLE unsummed (eid INTEGER NOT NULL) STRICT;
INSERT INTO unsummed SELECT coalesce(max(eid), 0) FROM events;

ALTER TABLE positions ADD COLUMN sum INTEGER;
