-- Secrets that operators sealed to gateways: the newest version of each name. The fleet cannot open them.
CREATE TABLE secret (
    gateway  TEXT NOT NULL REFERENCES device (name) ON DELETE CASCADE,
    module   TEXT NOT NULL,
    name     TEXT NOT NULL,
    version  INTEGER NOT NULL,
    removed  INTEGER NOT NULL,
    signer   TEXT NOT NULL,
    stored   INTEGER NOT NULL,
    digest   TEXT NOT NULL,
    envelope BLOB NOT NULL,
    PRIMARY KEY (gateway, module, name)
) STRICT;

-- What a gateway last said: the key to seal to, what it holds, and what it refused.
CREATE TABLE secret_state (
    gateway   TEXT PRIMARY KEY REFERENCES device (name) ON DELETE CASCADE,
    agreement TEXT NOT NULL,
    have      TEXT NOT NULL,
    refused   TEXT NOT NULL
) STRICT;
