// Package event emits events to the subscribers of the configuration that serves. An event that comes
// before the first configuration has started is dropped: its subscribers are not there yet.
package event

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
)

// Emit emits an event on behalf of the module that ctx was given to. It returns when all subscribers
// have seen it.
func Emit(ctx caddy.Context, name string, data map[string]any) {
	app, err := caddy.ActiveContext().AppIfConfigured("events")
	if err != nil {
		return // nobody listens
	}
	app.(*caddyevents.App).Emit(ctx, name, data)
}
