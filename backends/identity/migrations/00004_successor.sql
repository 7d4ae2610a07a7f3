-- +goose Up
-- The refresh token that followed a used one, encrypted by the used one itself, for the grace; '' for none.
ALTER TABLE identity_refresh ADD COLUMN successor TEXT NOT NULL DEFAULT '';
