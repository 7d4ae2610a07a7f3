-- +goose Up
-- Whose an event is, '' for nobody, and how many bytes its body has. The index has what is read to add them up.
ALTER TABLE webhooks_events ADD COLUMN owner TEXT NOT NULL DEFAULT '';
ALTER TABLE webhooks_events ADD COLUMN size BIGINT NOT NULL DEFAULT 0;
CREATE INDEX webhooks_events_owner ON webhooks_events (owner, size);
