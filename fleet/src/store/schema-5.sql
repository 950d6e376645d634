-- What tells a message from another one of the same number. Absent for messages from before.
ALTER TABLE message ADD COLUMN digest BLOB;

-- The newest messages that were dropped at the cap, by the number that they had in `message`: sent again, they are known.
-- What is not here and not above `queue.forgotten_to` is not known any more.
CREATE TABLE receipt (
    id       INTEGER PRIMARY KEY,
    gateway  TEXT NOT NULL,
    queue    TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    digest   BLOB NOT NULL,
    UNIQUE (gateway, queue, sequence),
    FOREIGN KEY (gateway, queue) REFERENCES queue (gateway, queue) ON DELETE CASCADE
) STRICT;
CREATE INDEX receipt_by_gateway ON receipt (gateway, id);

-- Every stored byte is charged.
UPDATE queue SET bytes = coalesce(
    (SELECT sum(octet_length(sender) + octet_length(topic) + octet_length(payload) + 512) FROM message
     WHERE message.gateway = queue.gateway AND message.queue = queue.queue), 0);

-- Operators' events have room of their own. The same refusal over and over is one row.
ALTER TABLE event ADD COLUMN operator INTEGER NOT NULL DEFAULT 0;
ALTER TABLE event ADD COLUMN times INTEGER NOT NULL DEFAULT 1;
UPDATE event SET operator = 1 WHERE gateway IS NULL;
CREATE INDEX event_by_share ON event (operator, gateway, id);

-- Tries with a token that failed.
ALTER TABLE join_token ADD COLUMN failures INTEGER NOT NULL DEFAULT 0;
