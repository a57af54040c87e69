-- kmodquery.Event.Receipt of the events that their sources may tell again.
-- Written together with the event; gone when the source's position is behind it.
CREATE TABLE receipts (
    id      INTEGER PRIMARY KEY,
    source  TEXT NOT NULL,
    receipt TEXT NOT NULL,
    UNIQUE (source, receipt)
) STRICT;
