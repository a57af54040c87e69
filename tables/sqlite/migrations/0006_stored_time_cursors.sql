-- When the recorder stored the event, in Unix time. NULL in the rows from before this
-- migration.
ALTER TABLE events ADD COLUMN stored_time INTEGER;
CREATE INDEX events_stored_time ON events (stored_time);

-- How far each named cursor has come, as JSON, with its checksum.
CREATE TABLE cursors (
    name  TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    sum   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
