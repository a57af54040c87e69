-- The number and the sum of the events, by kind, as JSON, with an HMAC under the key in the
-- state folder; empty until the recorder begins them. They change in the transaction that
-- adds or deletes events. In the rows after this migration the column sums of events ends
-- with the row's own HMAC.
CREATE TABLE totals (
    id    INTEGER PRIMARY KEY,
    state TEXT NOT NULL,
    mac   BLOB NOT NULL
) STRICT;

INSERT INTO totals VALUES (1, '', x'');
