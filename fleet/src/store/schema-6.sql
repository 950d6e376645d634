-- Which fleet's database this is: the SHA-256 of its root certificate. One row.
CREATE TABLE fleet (root TEXT NOT NULL) STRICT;

-- The SHA-256 of `event_log`, which is too large to be read whenever the row is checked.
ALTER TABLE attempt ADD COLUMN log_digest TEXT;
-- Of evidence from before nobody can say that it is what was proven. It comes again with the next try.
UPDATE attempt SET event_log = NULL;

-- What tells a changed bit in a row: a digest of its other columns, absent until the transaction that changed it seals it.
ALTER TABLE device ADD COLUMN seal BLOB;
CREATE INDEX device_unsealed ON device (seal) WHERE seal IS NULL;
CREATE TRIGGER device_changed AFTER UPDATE OF name, endorsement, attestation, labels, enrolled, verdict, refusal ON device BEGIN
    UPDATE device SET seal = NULL WHERE rowid = NEW.rowid;
END;
ALTER TABLE gateway_ca ADD COLUMN seal BLOB;
CREATE INDEX gateway_ca_unsealed ON gateway_ca (seal) WHERE seal IS NULL;
CREATE TRIGGER gateway_ca_changed AFTER UPDATE OF key_digest, gateway, issued ON gateway_ca BEGIN
    UPDATE gateway_ca SET seal = NULL WHERE rowid = NEW.rowid;
END;
ALTER TABLE join_token ADD COLUMN seal BLOB;
CREATE INDEX join_token_unsealed ON join_token (seal) WHERE seal IS NULL;
CREATE TRIGGER join_token_changed AFTER UPDATE OF hash, gateway, created, expires, used, allow_software, labels, failures ON join_token BEGIN
    UPDATE join_token SET seal = NULL WHERE rowid = NEW.rowid;
END;
ALTER TABLE attempt ADD COLUMN seal BLOB;
CREATE INDEX attempt_unsealed ON attempt (seal) WHERE seal IS NULL;
CREATE TRIGGER attempt_changed AFTER UPDATE OF id, gateway, at, verdict, refusal, evidence, log_digest ON attempt BEGIN
    UPDATE attempt SET seal = NULL WHERE rowid = NEW.rowid;
END;
ALTER TABLE reference ADD COLUMN seal BLOB;
CREATE INDEX reference_unsealed ON reference (seal) WHERE seal IS NULL;
CREATE TRIGGER reference_changed AFTER UPDATE OF name, origin, added, body ON reference BEGIN
    UPDATE reference SET seal = NULL WHERE rowid = NEW.rowid;
END;
ALTER TABLE vendor_root ADD COLUMN seal BLOB;
CREATE INDEX vendor_root_unsealed ON vendor_root (seal) WHERE seal IS NULL;
CREATE TRIGGER vendor_root_changed AFTER UPDATE OF digest, subject, pem, added ON vendor_root BEGIN
    UPDATE vendor_root SET seal = NULL WHERE rowid = NEW.rowid;
END;
ALTER TABLE operator_key ADD COLUMN seal BLOB;
CREATE INDEX operator_key_unsealed ON operator_key (seal) WHERE seal IS NULL;
CREATE TRIGGER operator_key_changed AFTER UPDATE OF name, point, added ON operator_key BEGIN
    UPDATE operator_key SET seal = NULL WHERE rowid = NEW.rowid;
END;
ALTER TABLE deployment ADD COLUMN seal BLOB;
CREATE INDEX deployment_unsealed ON deployment (seal) WHERE seal IS NULL;
CREATE TRIGGER deployment_changed AFTER UPDATE OF id, digest, name, version, selector, signer, stored ON deployment BEGIN
    UPDATE deployment SET seal = NULL WHERE rowid = NEW.rowid;
END;
ALTER TABLE secret ADD COLUMN seal BLOB;
CREATE INDEX secret_unsealed ON secret (seal) WHERE seal IS NULL;
CREATE TRIGGER secret_changed AFTER UPDATE OF gateway, module, name, version, removed, signer, stored, digest ON secret BEGIN
    UPDATE secret SET seal = NULL WHERE rowid = NEW.rowid;
END;
ALTER TABLE jwt_keys ADD COLUMN seal BLOB;
CREATE INDEX jwt_keys_unsealed ON jwt_keys (seal) WHERE seal IS NULL;
CREATE TRIGGER jwt_keys_changed AFTER UPDATE OF gateway, sequence, keys ON jwt_keys BEGIN
    UPDATE jwt_keys SET seal = NULL WHERE rowid = NEW.rowid;
END;
ALTER TABLE event ADD COLUMN seal BLOB;
CREATE INDEX event_unsealed ON event (seal) WHERE seal IS NULL;
CREATE TRIGGER event_changed AFTER UPDATE OF id, at, gateway, reason, text, operator, times ON event BEGIN
    UPDATE event SET seal = NULL WHERE rowid = NEW.rowid;
END;
ALTER TABLE fleet ADD COLUMN seal BLOB;
CREATE INDEX fleet_unsealed ON fleet (seal) WHERE seal IS NULL;
CREATE TRIGGER fleet_changed AFTER UPDATE OF root ON fleet BEGIN
    UPDATE fleet SET seal = NULL WHERE rowid = NEW.rowid;
END;
