-- Schema 3: what attempts were seen to do, for the plans of later runs.
-- `removed` rows stay, so that an attempt whose figures somebody threw away is not written down again.
CREATE TABLE observations (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    run         TEXT    NOT NULL,
    attempt     INTEGER,
    edited      INTEGER NOT NULL DEFAULT 0,
    removed     INTEGER NOT NULL DEFAULT 0,
    detail_json TEXT    NOT NULL,
    UNIQUE (run, attempt)
) STRICT;

-- The most that was seen of an attempt's box, and what was promised of it.
CREATE TABLE measured (
    run                  TEXT    NOT NULL,
    attempt              INTEGER NOT NULL,
    vram_gib             REAL,
    ram_gb               REAL,
    received_gb          REAL,
    down_mbps            REAL,
    up_mbps              REAL,
    advertised_down_mbps REAL,
    advertised_up_mbps   REAL,
    PRIMARY KEY (run, attempt)
) STRICT;
