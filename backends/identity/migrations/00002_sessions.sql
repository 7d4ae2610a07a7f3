-- +goose Up
-- Whoever changes a user's sessions or tokens locks the user's row first, and the revocations last.
-- tokens_from is when the user's tokens were last revoked, unix milliseconds: later ones have a later iat.
-- issued_at is the greatest iat of the user's tokens, unix seconds.
ALTER TABLE identity_users ADD COLUMN tokens_from BIGINT NOT NULL DEFAULT 0;
ALTER TABLE identity_users ADD COLUMN issued_at BIGINT NOT NULL DEFAULT 0;

-- A session is a login and what is refreshed from it. Its end is its row's. Times are unix milliseconds,
-- those that stand in tokens unix seconds.
CREATE TABLE identity_sessions (
	id           TEXT   PRIMARY KEY,
	user_id      TEXT   NOT NULL,
	auth_time    BIGINT NOT NULL,           -- seconds
	created_at   BIGINT NOT NULL,
	refreshed_at BIGINT NOT NULL,
	expires_at   BIGINT NOT NULL,           -- of the newest refresh token
	access_exp   BIGINT NOT NULL,           -- seconds: the greatest exp of its access tokens
	generation   BIGINT NOT NULL
);
CREATE INDEX identity_sessions_user ON identity_sessions (user_id, id);
CREATE INDEX identity_sessions_expires ON identity_sessions (expires_at);

-- Used refresh tokens stay, so that their second use is seen.
CREATE TABLE identity_refresh (
	hash       TEXT   PRIMARY KEY,          -- SHA-256, base64url
	session_id TEXT   NOT NULL,
	generation BIGINT NOT NULL,
	expires_at BIGINT NOT NULL,
	used_at    BIGINT NOT NULL              -- 0 for not used
);
CREATE INDEX identity_refresh_session ON identity_refresh (session_id, generation);
CREATE INDEX identity_refresh_expires ON identity_refresh (expires_at);

-- What is revoked, one row for each token, session or subject. A change of a row is a new one with a
-- greater seq, so that instances see it by seq alone; a revocation that was taken back stays as undone.
CREATE TABLE identity_revocations (
	seq           INTEGER PRIMARY KEY AUTOINCREMENT,
	id            TEXT    NOT NULL UNIQUE,
	kind          TEXT    NOT NULL,         -- jti, sid or sub
	issuer        TEXT    NOT NULL,         -- '' for any
	value         TEXT    NOT NULL,
	issued_before BIGINT  NOT NULL,         -- of sub: tokens with an iat at or before it; 0 else
	at            BIGINT  NOT NULL,         -- of two changes the one with the greater holds
	undone        INTEGER NOT NULL,
	expires_at    BIGINT  NOT NULL
);
CREATE INDEX identity_revocations_expires ON identity_revocations (expires_at);
