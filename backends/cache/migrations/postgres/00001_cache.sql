-- +goose Up
-- The second level of the cache. Times are unix milliseconds; generation is the tag generation at
-- which the value was made; size is what the row counts against the disk bound.
CREATE TABLE cache_entries (
    key          TEXT    NOT NULL PRIMARY KEY,
    value        BYTEA   NOT NULL,
    content_type TEXT    NOT NULL,
    tags         TEXT    NOT NULL, -- a JSON array of strings
    generation   BIGINT  NOT NULL,
    size         BIGINT  NOT NULL,
    created_at   BIGINT  NOT NULL,
    expires_at   BIGINT  NOT NULL
);
CREATE INDEX cache_entries_by_expiry ON cache_entries (expires_at);
CREATE INDEX cache_entries_by_age ON cache_entries (created_at, key, size);

-- When each tag was last invalidated. The row with the empty tag is the floor: tagged values made
-- before it are not valid, whatever their tags.
CREATE TABLE cache_tags (
    tag        TEXT   NOT NULL PRIMARY KEY,
    generation BIGINT NOT NULL
);
CREATE INDEX cache_tags_by_generation ON cache_tags (generation);

-- The newest generation that was given out, in one row.
CREATE TABLE cache_generation (
    id   BIGINT PRIMARY KEY CHECK (id = 1),
    last BIGINT NOT NULL
);
INSERT INTO cache_generation (id, last) VALUES (1, 0);

-- When each key was last deleted, for the fills that were on their way; for an hour.
CREATE TABLE cache_drops (
    key        TEXT   NOT NULL PRIMARY KEY,
    generation BIGINT NOT NULL,
    dropped_at BIGINT NOT NULL
);
