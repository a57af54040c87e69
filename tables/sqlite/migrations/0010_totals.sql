-- The HMAC of the row under the key in the state folder. NULL in the rows from before this
-- migration.
ALTER TABLE events ADD COLUMN mac BLOB;

-- The number and the sum of the events, by kind, as JSON, with an HMAC under the same key;
-- empty until the recorder begins them. They change in the transaction that adds or deletes
-- events.
CREATE TABLE totals (
    id    INTEGER PRIMARY KEY,
    state TEXT NOT NULL,
    mac   BLOB NOT NULL
) STRICT;

INSERT INTO totals VALUES (1, '', x'');
