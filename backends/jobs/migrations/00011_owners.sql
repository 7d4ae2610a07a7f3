-- +goose Up
-- Whose schedule it is, empty for nobody's. Within the name an owner stands before the separator 0x1f.
ALTER TABLE jobs_schedules ADD COLUMN owner TEXT NOT NULL DEFAULT '';
