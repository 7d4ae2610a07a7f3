-- +goose Up
-- options is JSON, as ScheduleOptions has it. bounds is its start and end, which next_at depends on.
-- last_run is the newest job of the schedule, by a tick or by hand.
ALTER TABLE jobs_schedules ADD COLUMN options TEXT NOT NULL DEFAULT '{}';
ALTER TABLE jobs_schedules ADD COLUMN bounds TEXT NOT NULL DEFAULT '';
ALTER TABLE jobs_schedules ADD COLUMN last_run BIGINT NOT NULL DEFAULT 0;
