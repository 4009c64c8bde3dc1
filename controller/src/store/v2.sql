-- Schema 2: an ended run may be started again on its own box.
ALTER TABLE attempts ADD COLUMN reopened_us INTEGER NOT NULL DEFAULT 0;
ALTER TABLE attempts ADD COLUMN old_session_us INTEGER NOT NULL DEFAULT 0;
