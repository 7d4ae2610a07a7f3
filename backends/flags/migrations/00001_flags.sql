-- +goose Up
-- One row per flag that ever was. A deleted flag keeps its row with value NULL, so that its version
-- never starts again and a stale If-Match cannot hit a later flag of the same name.
CREATE TABLE flags_flags (
    key        TEXT PRIMARY KEY,   -- flag:<name>
    value      TEXT,               -- {"enabled":bool,"percentage":0..100,"allowList":[...],"denyList":[...]}
    version    BIGINT NOT NULL,    -- 1, 2, ...
    updated_at BIGINT NOT NULL     -- unix milliseconds
);
