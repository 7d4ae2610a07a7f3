-- +goose Up
-- When the next start is due by a rate, in microseconds since 1970. An empty key is the whole queue.
CREATE TABLE jobs_rates (
	queue   TEXT   NOT NULL,
	job_key TEXT   NOT NULL,
	due_at  BIGINT NOT NULL,
	PRIMARY KEY (queue, job_key)
);
-- Who works, and when it last said so, in milliseconds since 1970 by the clock of the database.
CREATE TABLE jobs_instances (
	id      TEXT   NOT NULL PRIMARY KEY,
	seen_at BIGINT NOT NULL
);
