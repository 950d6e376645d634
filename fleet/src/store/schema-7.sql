-- Events of all, the newest first.
CREATE INDEX event_by_time ON event (at, id);
