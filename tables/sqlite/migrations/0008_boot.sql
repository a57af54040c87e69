-- The last event of each kind in a boot, for sqlite.Store.Replay, in the order of its GROUP BY
-- and with all that it reads.
CREATE INDEX events_boot ON events
    (boot_id, event_name, name COLLATE BINARY, source, uptime IS NULL, coalesce(result, 0) = 0, uptime, time_nanos);
