package gatehouse_test

import (
	"context"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// seenHandler is an event handler that passes on what the events say.
type seenHandler struct{}

var seen = make(chan map[string]any, 10)

func init() { caddy.RegisterModule(seenHandler{}) }

func (seenHandler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.test_seen", New: func() caddy.Module { return new(seenHandler) }}
}

func (*seenHandler) UnmarshalCaddyfile(*caddyfile.Dispenser) error { return nil }

func (*seenHandler) Handle(_ context.Context, e caddy.Event) error {
	seen <- e.Data
	return nil
}
