-- Whether an unprivileged user can cause the event: kmodquery.Event.IsUnprivileged when
-- the event is written. It is no column of the event. The index counts each kind and finds
-- its oldest event without reading events.
ALTER TABLE events ADD COLUMN cheap INTEGER NOT NULL DEFAULT 0;

-- The same rule for the existing events. A recorder of version 1 computed no hashes. That
-- the kernel read bytes in an attempt follows from the attempt's other events.
UPDATE events SET cheap = 1
WHERE event_name = 'module_request'
   OR (event_name IN ('init_module', 'finit_module', 'delete_module')
       AND error = 'EPERM'
       AND sha256 IS NULL
       AND instr(',' || coalesce(missing, '') || ',', ',sha256,') = 0
       AND NOT EXISTS (
           SELECT 1 FROM events AS other
           WHERE other.load_id = events.load_id
             AND other.event_name IN ('security_kernel_read_file', 'security_kernel_load_data', 'module_load')
       ));

CREATE INDEX events_cheap ON events (cheap);

-- Each pair of name and hash that an event had, and the first attempt with it. Unlike the
-- columns of events, these are compared byte by byte: dummy and DUMMY are two modules. The
-- ids have no gaps, because only the lowest are deleted.
CREATE TABLE seen (
    id      INTEGER PRIMARY KEY,
    name    TEXT NOT NULL,
    sha256  TEXT NOT NULL,
    load_id TEXT,
    time    INTEGER NOT NULL,
    UNIQUE (name, sha256)
) STRICT;

-- The condition on sha256 uses its index: few events of version 1 have a hash.
INSERT OR IGNORE INTO seen (name, sha256, load_id, time)
SELECT name, sha256, load_id, time FROM events
WHERE name IS NOT NULL AND sha256 > ''
ORDER BY +eid;
