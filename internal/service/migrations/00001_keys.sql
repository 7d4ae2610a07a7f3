-- +goose Up
-- The keys that the backends have generated, which every instance on this database uses.
CREATE TABLE service_keys (
    name  TEXT  PRIMARY KEY,
    value BYTEA NOT NULL
);
