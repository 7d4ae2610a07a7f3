-- +goose Up
-- The locks that are held. A row past expires_at is free, whether it is still there or not.
CREATE TABLE locks_locks (
    name       TEXT   PRIMARY KEY,
    token      TEXT   NOT NULL,           -- SHA-256 of the owner's token, hexadecimal
    fence      BIGINT NOT NULL UNIQUE,
    expires_at BIGINT NOT NULL            -- unix milliseconds
);
CREATE INDEX locks_expires ON locks_locks (expires_at);

-- One sequence of fences for all names, so that a row can go without its fence coming back.
CREATE SEQUENCE locks_fences;
