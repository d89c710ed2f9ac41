-- One table per kind of object. `record` is the object as JSON: everything is read into memory once,
-- so the only columns are those that SQL itself needs.
CREATE TABLE containers (id TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE pods       (id TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE images     (id TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE networks   (id TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE volumes    (id TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;

-- An address is taken once per network: the key says so.
CREATE TABLE leases (
    network TEXT NOT NULL,
    address TEXT NOT NULL,
    owner   TEXT NOT NULL,
    PRIMARY KEY (network, address)
) WITHOUT ROWID;
CREATE INDEX leases_by_owner ON leases (owner);

CREATE TABLE notes (
    area  TEXT NOT NULL,
    key   TEXT NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (area, key)
) WITHOUT ROWID;

-- The journal. `seq` only grows, so that the oldest rows are found by counting.
CREATE TABLE events (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    time_ns INTEGER NOT NULL,
    event   TEXT NOT NULL
);
CREATE INDEX events_by_time ON events (time_ns);
