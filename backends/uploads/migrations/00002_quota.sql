-- +goose Up
-- What an owner's uploads add up to is read from the index alone.
CREATE INDEX uploads_files_quota ON uploads_files (owner, state, expires_at, size);
