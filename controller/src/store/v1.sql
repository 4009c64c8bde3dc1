-- Schema 1. Never edited once released: a change is a new file and a new row of MIGRATIONS.
CREATE TABLE migrations (
    version    INTEGER PRIMARY KEY,
    applied_us INTEGER NOT NULL,
    by_version TEXT    NOT NULL
) STRICT;

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE runs (
    name           TEXT PRIMARY KEY,
    spec_json      TEXT    NOT NULL,
    created_us     INTEGER NOT NULL,
    stop_requested INTEGER NOT NULL DEFAULT 0,
    outcome        TEXT,
    reason         TEXT
) STRICT;

CREATE TABLE attempts (
    run                  TEXT    NOT NULL REFERENCES runs (name),
    number               INTEGER NOT NULL,
    state                TEXT    NOT NULL,
    label                TEXT    NOT NULL UNIQUE,
    rental               TEXT    NOT NULL,
    instance             INTEGER,
    machine_id           INTEGER,
    gpu                  TEXT    NOT NULL,
    gpu_usd_per_hour     REAL    NOT NULL,
    storage_usd_per_hour REAL    NOT NULL,
    ssh_json             TEXT    NOT NULL,
    created_us           INTEGER NOT NULL,
    state_us             INTEGER NOT NULL,
    started_us           INTEGER NOT NULL,
    gone_us              INTEGER NOT NULL,
    resumed_step         INTEGER,
    last_step            INTEGER,
    reason               TEXT,
    last_event           INTEGER NOT NULL,
    exit_code            INTEGER,
    PRIMARY KEY (run, number)
) STRICT;

-- `id` is the position from which readers go on. `seq` is the agent's own number, or ours for what spotter did itself.
CREATE TABLE events (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    run         TEXT    NOT NULL,
    attempt     INTEGER NOT NULL,
    origin      TEXT    NOT NULL,
    seq         INTEGER NOT NULL,
    time_us     INTEGER NOT NULL,
    kind        TEXT    NOT NULL,
    detail_json TEXT    NOT NULL,
    UNIQUE (run, attempt, origin, seq)
) STRICT;

CREATE TABLE leases (
    run        TEXT PRIMARY KEY,
    holder     TEXT    NOT NULL,
    host       TEXT    NOT NULL,
    pid        INTEGER NOT NULL,
    expires_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE intervals (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    run          TEXT    NOT NULL,
    attempt      INTEGER NOT NULL,
    kind         TEXT    NOT NULL,
    from_us      INTEGER NOT NULL,
    to_us        INTEGER,
    usd_per_hour REAL    NOT NULL
) STRICT;
CREATE INDEX intervals_by_run ON intervals (run, attempt, kind);
CREATE UNIQUE INDEX intervals_open ON intervals (run, attempt, kind) WHERE to_us IS NULL;

-- What the provider charged for an attempt; `final` once the instance is gone and the bill is closed.
CREATE TABLE charges (
    run           TEXT    NOT NULL,
    attempt       INTEGER NOT NULL,
    instance      INTEGER NOT NULL,
    gpu_usd       REAL    NOT NULL,
    disk_usd      REAL    NOT NULL,
    bandwidth_usd REAL    NOT NULL,
    read_us       INTEGER NOT NULL,
    final         INTEGER NOT NULL,
    PRIMARY KEY (run, attempt)
) STRICT;
