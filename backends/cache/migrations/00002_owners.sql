-- +goose Up
-- Whose a value or an invalidated tag is, as the part of key or tag before U+001F says; '' is nobody's.
ALTER TABLE cache_entries ADD COLUMN owner TEXT NOT NULL DEFAULT '';
CREATE INDEX cache_entries_by_owner ON cache_entries (owner, created_at, key, size) WHERE owner <> '';
ALTER TABLE cache_tags ADD COLUMN owner TEXT NOT NULL DEFAULT '';
CREATE INDEX cache_tags_by_owner ON cache_tags (owner) WHERE owner <> '';

-- The sum of the sizes of each owner's values.
CREATE TABLE cache_owners (
    owner TEXT   NOT NULL PRIMARY KEY,
    bytes BIGINT NOT NULL
);
