-- How long the certificate lasts that the fleet gave last to a gateway's CA: from when on its renewal is overdue, and when
-- it ends. `told` is how far an event tells of that: 0, 1 when overdue, 2 when ended.
CREATE TABLE certificate (
    gateway TEXT PRIMARY KEY REFERENCES device (name) ON DELETE CASCADE,
    overdue INTEGER NOT NULL,
    ends    INTEGER NOT NULL,
    told    INTEGER NOT NULL DEFAULT 0,
    seal    BLOB
) STRICT;
CREATE INDEX certificate_by_overdue ON certificate (told, overdue);
CREATE INDEX certificate_by_end ON certificate (told, ends);
CREATE INDEX certificate_unsealed ON certificate (seal) WHERE seal IS NULL;
CREATE TRIGGER certificate_changed AFTER UPDATE OF gateway, overdue, ends, told ON certificate BEGIN
    UPDATE certificate SET seal = NULL WHERE rowid = NEW.rowid;
END;
