-- The keys that gateways sign JWT-SVIDs with, as each last stated them under its CA's key. A removed gateway's go with it.
CREATE TABLE jwt_keys (
    gateway  TEXT PRIMARY KEY REFERENCES device (name) ON DELETE CASCADE,
    sequence INTEGER NOT NULL,
    keys     TEXT NOT NULL
) STRICT;
