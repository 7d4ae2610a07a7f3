-- +goose Up
-- One row for each unique key and the job that holds it. The job itself is a row of the engine's
-- table, which its own migrations rebuild, so there is no foreign key.
CREATE TABLE jobs_keys (
	queue      TEXT    NOT NULL,
	unique_key TEXT    NOT NULL,
	job_id     INTEGER NOT NULL,
	PRIMARY KEY (queue, unique_key)
);
CREATE INDEX jobs_keys_job ON jobs_keys (job_id);
