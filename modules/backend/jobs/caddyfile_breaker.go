package jobs

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/gatehouse-proxy/gatehouse/backends/jobs"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/dispense"
)

// breaker is the option breaker, of a queue or of all:
//
//	breaker off                               # nothing is ever held back
//	breaker {
//		trip  N                               # failures in a row, default 5
//		pause DURATION [max DURATION]         # until one finds out how things are, default 2s max 1m
//		scope path|queue|origin|off           # which pushes fail together, default path
//	}
func breaker(v *jobs.Breaker) dispense.Option {
	return dispense.Option{Name: "breaker", Parse: func(d *caddyfile.Dispenser) error {
		if args := d.RemainingArgs(); len(args) == 1 && args[0] == "off" {
			v.Scope = "off"
			return nil
		} else if len(args) > 0 {
			return d.Errf("breaker takes a block, or: breaker off")
		}
		return dispense.Block(d, "breaker",
			dispense.Option{Name: "trip", Parse: func(d *caddyfile.Dispenser) error { return dispense.Int(d, &v.Trip, 1) }},
			dispense.Option{Name: "scope", Parse: func(d *caddyfile.Dispenser) error { return dispense.String(d, &v.Scope) }},
			dispense.Option{Name: "pause", Parse: func(d *caddyfile.Dispenser) error { return parsePause(d, v) }},
		)
	}}
}

func parsePause(d *caddyfile.Dispenser, v *jobs.Breaker) error {
	args := d.RemainingArgs()
	if len(args) != 1 && (len(args) != 3 || args[1] != "max") {
		return d.Errf("pause needs a duration, and may have a longest one, such as: pause 2s max 1m")
	}
	var err error
	if v.Pause, err = unit.ParseDuration(args[0]); err == nil && len(args) == 3 {
		v.MaxPause, err = unit.ParseDuration(args[2])
	}
	if err != nil {
		return d.Errf("pause: %v", err)
	}
	if v.Pause == 0 || len(args) == 3 && v.MaxPause == 0 {
		return d.Errf("pause must be above 0")
	}
	return nil
}
