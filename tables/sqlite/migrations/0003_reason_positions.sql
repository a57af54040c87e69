-- Why the recorder says so, for events that it found by comparing.
ALTER TABLE events ADD COLUMN reason TEXT COLLATE NOCASE;

-- How far in its log each source has come: kmodquery.Event.Position of the last
-- of its events that had one. Written together with that event.
CREATE TABLE positions (
    source   TEXT PRIMARY KEY,
    position TEXT NOT NULL
) STRICT, WITHOUT ROWID;
