-- For events that the recorder finds by comparing: the observations behind them.
ALTER TABLE events ADD COLUMN reason TEXT COLLATE NOCASE;

-- The last kmodquery.Delivery.Position of each source, written in the transaction of its
-- event.
CREATE TABLE positions (
    source   TEXT PRIMARY KEY,
    position TEXT NOT NULL
) STRICT, WITHOUT ROWID;
