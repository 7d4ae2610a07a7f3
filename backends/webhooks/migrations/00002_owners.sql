-- +goose Up
-- Whose an endpoint is, and with it its deliveries; '' is nobody's. Ids of events begin with their owner and
-- U+001F, unless they are nobody's.
ALTER TABLE webhooks_endpoints ADD COLUMN owner TEXT NOT NULL DEFAULT '';
CREATE INDEX webhooks_endpoints_owner ON webhooks_endpoints (owner, seq);
ALTER TABLE webhooks_deliveries ADD COLUMN owner TEXT NOT NULL DEFAULT '';
CREATE INDEX webhooks_deliveries_owner ON webhooks_deliveries (owner, seq);
