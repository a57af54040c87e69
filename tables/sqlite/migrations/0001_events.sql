-- One row an event, written once. The columns are the fields of kmodquery.Event, in
-- their order; a test compares the two. Comparisons of text ignore ASCII case, as
-- documented at kmodquery.Condition.
CREATE TABLE events (
    time               INTEGER NOT NULL,
    time_nanos         INTEGER NOT NULL,
    uptime             INTEGER,
    boot_id            TEXT COLLATE NOCASE,
    eid                INTEGER PRIMARY KEY AUTOINCREMENT,
    event_name         TEXT COLLATE NOCASE,
    source             TEXT COLLATE NOCASE,
    load_id            TEXT COLLATE NOCASE,
    parent_load_id     TEXT COLLATE NOCASE,
    name               TEXT COLLATE NOCASE,
    path               TEXT COLLATE NOCASE,
    type               TEXT COLLATE NOCASE,
    origin             TEXT COLLATE NOCASE,
    filesystem         TEXT COLLATE NOCASE,
    device             INTEGER,
    inode              INTEGER,
    size               INTEGER,
    mtime              INTEGER,
    ctime              INTEGER,
    sha256             TEXT COLLATE NOCASE,
    image_sha256       TEXT COLLATE NOCASE,
    hash_source        TEXT COLLATE NOCASE,
    signature_status   TEXT COLLATE NOCASE,
    signer             TEXT COLLATE NOCASE,
    signature_key_id   TEXT COLLATE NOCASE,
    signature_hash     TEXT COLLATE NOCASE,
    version            TEXT COLLATE NOCASE,
    srcversion         TEXT COLLATE NOCASE,
    vermagic           TEXT COLLATE NOCASE,
    license            TEXT COLLATE NOCASE,
    intree             INTEGER,
    params             TEXT COLLATE NOCASE,
    flags              INTEGER,
    taints             INTEGER,
    result             INTEGER,
    error              TEXT COLLATE NOCASE,
    pid                INTEGER,
    tid                INTEGER,
    parent             INTEGER,
    process_name       TEXT COLLATE NOCASE,
    process_path       TEXT COLLATE NOCASE,
    cmdline            TEXT COLLATE NOCASE,
    cwd                TEXT COLLATE NOCASE,
    uid                INTEGER,
    euid               INTEGER,
    gid                INTEGER,
    egid               INTEGER,
    auid               INTEGER,
    session_id         INTEGER,
    capabilities       INTEGER,
    ancestors          TEXT COLLATE NOCASE,
    requested_by       TEXT COLLATE NOCASE,
    container_id       TEXT COLLATE NOCASE,
    cgroup             TEXT COLLATE NOCASE,
    mnt_ns             INTEGER,
    pid_ns             INTEGER,
    user_ns            INTEGER,
    team_id            TEXT COLLATE NOCASE,
    cdhash             TEXT COLLATE NOCASE,
    process_signing_id TEXT COLLATE NOCASE,
    process_team_id    TEXT COLLATE NOCASE,
    first_seen         INTEGER,
    count              INTEGER,
    missing            TEXT COLLATE NOCASE,
    raw                TEXT COLLATE NOCASE
) STRICT;

-- Queries have a window of time, so the two columns with few distinct values are
-- indexed together with it.
CREATE INDEX events_time         ON events (time);
CREATE INDEX events_event_name   ON events (event_name, time);
CREATE INDEX events_source       ON events (source, time);
CREATE INDEX events_load_id      ON events (load_id);
CREATE INDEX events_name         ON events (name);
CREATE INDEX events_path         ON events (path);
CREATE INDEX events_sha256       ON events (sha256);
CREATE INDEX events_pid          ON events (pid);
CREATE INDEX events_container_id ON events (container_id) WHERE container_id IS NOT NULL;

-- "kmod" in ASCII marks the database as an event store.
PRAGMA application_id = 1802334052;
