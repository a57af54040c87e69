-- What of a module differs from what this host knew of its name under the same kernel.
ALTER TABLE events ADD COLUMN changed TEXT;

-- The hashes, signers and paths with which modules of a name were loaded under a kernel, and the
-- attempt that first had each, compared byte by byte. The ids have no gaps, because only the
-- lowest are deleted.
CREATE TABLE known (
    id      INTEGER PRIMARY KEY,
    name    TEXT NOT NULL,
    kernel  TEXT NOT NULL,
    fact    TEXT NOT NULL,
    value   TEXT NOT NULL,
    load_id TEXT NOT NULL,
    UNIQUE (name, kernel, fact, value)
) STRICT;

-- Of a fact, the attempts in order.
CREATE INDEX known_order ON known (name, kernel, fact, id);
