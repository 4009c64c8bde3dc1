-- Schema 4: what went over the network of an attempt's box, by its counters, until the provider's bill says so.
CREATE TABLE traffic (
    run              TEXT    NOT NULL,
    attempt          INTEGER NOT NULL,
    from_us          INTEGER NOT NULL,
    at_us            INTEGER NOT NULL,
    counted_received INTEGER NOT NULL,
    counted_sent     INTEGER NOT NULL,
    received         INTEGER NOT NULL,
    sent             INTEGER NOT NULL,
    usd              REAL    NOT NULL,
    PRIMARY KEY (run, attempt)
) STRICT;
