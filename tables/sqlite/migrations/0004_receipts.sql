-- The kmodquery.Delivery.Key of events that their sources may emit again, written in the
-- transaction of the event. Keys before the source's position are deleted.
CREATE TABLE receipts (
    id      INTEGER PRIMARY KEY,
    source  TEXT NOT NULL,
    receipt TEXT NOT NULL,
    UNIQUE (source, receipt)
) STRICT;
