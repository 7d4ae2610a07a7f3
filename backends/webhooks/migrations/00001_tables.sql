-- +goose Up

-- Where events are sent. types is a JSON array of patterns; an empty one takes every event.
CREATE TABLE webhooks_endpoints (
    seq         INTEGER PRIMARY KEY,
    id          TEXT    NOT NULL UNIQUE,
    url         TEXT    NOT NULL,
    types       TEXT    NOT NULL,
    description TEXT    NOT NULL,
    secret      TEXT    NOT NULL,
    state       TEXT    NOT NULL,
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL
);

-- What is sent: body holds the exact bytes of every attempt.
CREATE TABLE webhooks_events (
    seq        INTEGER PRIMARY KEY,
    id         TEXT    NOT NULL UNIQUE,
    type       TEXT    NOT NULL,
    body       BLOB    NOT NULL,
    created_at INTEGER NOT NULL
);
CREATE INDEX webhooks_events_created ON webhooks_events (created_at);

-- One event on its way to one endpoint. last_status 0: no answer yet. next_at 0: the jobs backend decides.
CREATE TABLE webhooks_deliveries (
    seq             INTEGER PRIMARY KEY,
    id              TEXT    NOT NULL UNIQUE,
    event_id        TEXT    NOT NULL,
    endpoint_id     TEXT    NOT NULL,
    state           TEXT    NOT NULL,
    attempts        INTEGER NOT NULL DEFAULT 0,
    last_status     INTEGER NOT NULL DEFAULT 0,
    last_error      TEXT    NOT NULL DEFAULT '',
    last_attempt_at INTEGER NOT NULL DEFAULT 0,
    next_at         INTEGER NOT NULL DEFAULT 0,
    created_at      INTEGER NOT NULL
);
CREATE INDEX webhooks_deliveries_endpoint ON webhooks_deliveries (endpoint_id, seq);
CREATE INDEX webhooks_deliveries_state ON webhooks_deliveries (state, seq);
CREATE INDEX webhooks_deliveries_event ON webhooks_deliveries (event_id);
CREATE INDEX webhooks_deliveries_created ON webhooks_deliveries (created_at);

-- Events that came in, one row for each however often it was sent.
CREATE TABLE webhooks_received (
    seq         INTEGER PRIMARY KEY,
    scheme      TEXT    NOT NULL,
    endpoint    TEXT    NOT NULL,
    queue       TEXT    NOT NULL,
    event_id    TEXT    NOT NULL,
    job_id      TEXT    NOT NULL,
    size        INTEGER NOT NULL,
    received_at INTEGER NOT NULL,
    UNIQUE (scheme, endpoint, queue, event_id)
);
CREATE INDEX webhooks_received_at ON webhooks_received (received_at);
