-- +goose Up
-- One row per upload, from the presign on. Times are unix milliseconds, 0 where it has not happened.
CREATE TABLE uploads_files (
	id           TEXT PRIMARY KEY,
	owner        TEXT NOT NULL,             -- the subject; empty for anonymous
	object_key   TEXT NOT NULL UNIQUE,
	filename     TEXT NOT NULL,
	content_type TEXT NOT NULL,
	size         BIGINT NOT NULL,
	state        TEXT NOT NULL,             -- pending, processing, ready, rejected, expired, deleted
	reason       TEXT NOT NULL DEFAULT '',  -- why it was rejected
	etag         TEXT NOT NULL DEFAULT '',  -- pinned when it was confirmed
	created_at   BIGINT NOT NULL,
	expires_at   BIGINT NOT NULL,           -- of the URL for the upload
	ready_at     BIGINT NOT NULL DEFAULT 0,
	sweep_at     BIGINT                     -- when the sweep has to look at it; NULL for never
);
CREATE INDEX uploads_files_sweep ON uploads_files (sweep_at);
CREATE INDEX uploads_files_owner ON uploads_files (owner, state, expires_at);
