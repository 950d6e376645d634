-- Who may join, once. Only the hash of a token is kept.
CREATE TABLE join_token (
    hash    BLOB PRIMARY KEY,
    gateway TEXT NOT NULL,
    created INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    used    INTEGER
) STRICT;

-- An enrolled gateway. `endorsement` never changes for a name, and is never that of two names.
CREATE TABLE device (
    name        TEXT PRIMARY KEY,
    endorsement TEXT NOT NULL UNIQUE,
    attestation TEXT NOT NULL,
    labels      TEXT NOT NULL,
    enrolled    INTEGER NOT NULL,
    verdict     TEXT NOT NULL,
    refusal     TEXT,
    seen        INTEGER,
    report      TEXT
) STRICT;

-- The gateway CA keys that were certified. A peer whose chain holds none of its gateway's is no longer one of the fleet.
CREATE TABLE gateway_ca (
    key_digest TEXT NOT NULL,
    gateway    TEXT NOT NULL REFERENCES device (name) ON DELETE CASCADE,
    issued     INTEGER NOT NULL,
    PRIMARY KEY (key_digest, gateway)
) STRICT;

-- What was appraised and is a fact about the gateway, the newest ten of each. It may have failed before it joined.
CREATE TABLE attempt (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    gateway   TEXT NOT NULL,
    at        INTEGER NOT NULL,
    verdict   TEXT NOT NULL,
    refusal   TEXT,
    evidence  TEXT NOT NULL,
    event_log BLOB
) STRICT;
CREATE INDEX attempt_by_gateway ON attempt (gateway, id);

CREATE TABLE reference (
    name   TEXT PRIMARY KEY,
    origin TEXT NOT NULL,
    added  INTEGER NOT NULL,
    body   TEXT NOT NULL
) STRICT;

CREATE TABLE vendor_root (
    digest  TEXT PRIMARY KEY,
    subject TEXT NOT NULL,
    pem     TEXT NOT NULL,
    added   INTEGER NOT NULL
) STRICT;

CREATE TABLE operator_key (
    name  TEXT PRIMARY KEY,
    point BLOB NOT NULL UNIQUE,
    added INTEGER NOT NULL
) STRICT;

-- Envelopes as they came. `signer` is absent when the server was told to carry without checking.
CREATE TABLE deployment (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    digest   TEXT NOT NULL UNIQUE,
    name     TEXT NOT NULL,
    version  INTEGER NOT NULL,
    selector TEXT NOT NULL,
    signer   TEXT,
    stored   INTEGER NOT NULL,
    envelope BLOB NOT NULL
) STRICT;

-- One upstream queue of a gateway, with what is kept of it and what was dropped at the cap.
CREATE TABLE queue (
    gateway      TEXT NOT NULL REFERENCES device (name) ON DELETE CASCADE,
    queue        TEXT NOT NULL,
    highest      INTEGER NOT NULL,
    forgotten_to INTEGER NOT NULL,
    kept         INTEGER NOT NULL,
    bytes        INTEGER NOT NULL,
    dropped      INTEGER NOT NULL,
    PRIMARY KEY (gateway, queue)
) STRICT;

CREATE TABLE message (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    gateway  TEXT NOT NULL,
    queue    TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    at       INTEGER NOT NULL,
    sender   TEXT NOT NULL,
    topic    TEXT NOT NULL,
    payload  BLOB NOT NULL,
    UNIQUE (gateway, queue, sequence),
    FOREIGN KEY (gateway, queue) REFERENCES queue (gateway, queue) ON DELETE CASCADE
) STRICT;
CREATE INDEX message_by_gateway ON message (gateway, id);

CREATE TABLE event (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    at      INTEGER NOT NULL,
    gateway TEXT,
    reason  TEXT,
    text    TEXT NOT NULL
) STRICT;
CREATE INDEX event_by_gateway ON event (gateway, id);
