-- +goose Up
-- The logins that failed, one row for each account and each client address that did in its window. A row past
-- expires_at counts for nothing, whether it is still there or not.
CREATE TABLE identity_attempts (
	hash       TEXT   PRIMARY KEY,          -- SHA-256 of the kind and the account or address, base64url
	failed     BIGINT NOT NULL,
	expires_at BIGINT NOT NULL              -- unix milliseconds: the end of the window, which the first failure began
);
CREATE INDEX identity_attempts_expires ON identity_attempts (expires_at);

-- A login finds by it what a user's sessions are too many by.
CREATE INDEX identity_sessions_refreshed ON identity_sessions (user_id, refreshed_at, id);
