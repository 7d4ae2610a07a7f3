-- +goose Up
-- One row for each schedule. Times are milliseconds since the Unix epoch, 0 for none. next_at is the
-- tick that is to be fired next: whoever moves it on enqueues the job in the same transaction.
CREATE TABLE jobs_schedules (
	name       TEXT     NOT NULL PRIMARY KEY,
	cron       TEXT     NOT NULL,
	timezone   TEXT     NOT NULL,
	queue      TEXT     NOT NULL,
	payload    TEXT     NOT NULL,
	target     TEXT     NOT NULL,
	missed     TEXT     NOT NULL,
	configured SMALLINT NOT NULL, -- 1 for one of the configuration
	paused_at  BIGINT   NOT NULL DEFAULT 0,
	next_at    BIGINT   NOT NULL,
	last_at    BIGINT   NOT NULL DEFAULT 0, -- the newest tick that was fired
	last_job   BIGINT   NOT NULL DEFAULT 0, -- its job
	updated_at BIGINT   NOT NULL
);
