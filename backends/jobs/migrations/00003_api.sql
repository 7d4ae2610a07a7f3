-- +goose Up
-- A unique key has a scope, queue or empty for all queues, and is remembered for ttl_ms after the
-- completion of its job.
ALTER TABLE jobs_keys ADD COLUMN ttl_ms BIGINT NOT NULL DEFAULT 86400000;

-- One row for each job that a pull worker has on lease. The fence is never given twice.
CREATE TABLE jobs_leases (
	fence         INTEGER PRIMARY KEY AUTOINCREMENT,
	job_id        BIGINT  NOT NULL UNIQUE,
	worker        TEXT    NOT NULL,
	visibility_ms BIGINT  NOT NULL,
	expires_at    BIGINT  NOT NULL -- Unix time in ms, as all times of these tables
);
CREATE INDEX jobs_leases_expires ON jobs_leases (expires_at);

-- The first answer to each Idempotency-Key. A batch has one row for each of its jobs.
CREATE TABLE jobs_idempotency (
	scope       TEXT    NOT NULL, -- the subject and the route
	idem_key    TEXT    NOT NULL,
	part        INTEGER NOT NULL,
	fingerprint TEXT    NOT NULL, -- of the request's body
	answer      TEXT    NOT NULL,
	created_at  BIGINT  NOT NULL,
	PRIMARY KEY (scope, idem_key, part)
);
CREATE INDEX jobs_idempotency_created ON jobs_idempotency (created_at);

-- The queues that take no new jobs.
CREATE TABLE jobs_drains (
	queue      TEXT   NOT NULL PRIMARY KEY,
	created_at BIGINT NOT NULL
);
