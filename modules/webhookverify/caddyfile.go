package webhookverify

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/gatehouse-proxy/gatehouse/internal/signature"
	_ "github.com/gatehouse-proxy/gatehouse/modules/backend/webhooks" // where ingest keeps events
	"github.com/gatehouse-proxy/gatehouse/modules/internal/dispense"
	_ "github.com/gatehouse-proxy/gatehouse/modules/internal/journey" // the directive's place
)

// defaultQueue is where ingest puts events that it is given no queue for.
const defaultQueue = "webhooks"

func init() {
	caddy.RegisterModule(new(Handler))
	httpcaddyfile.RegisterHandlerDirective("webhook_verify", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		m := new(Handler)
		return m, m.UnmarshalCaddyfile(h.Dispenser)
	})
}

// CaddyModule is the handler's registration.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.webhook_verify", New: func() caddy.Module { return new(Handler) }}
}

// UnmarshalCaddyfile reads the directive. Syntax:
//
//	webhook_verify github|standard|stripe|timestamped {
//		secret    NAME                      # of the global options; may repeat, a signature under any is genuine
//		tolerance DURATION                  # between the signed time and now, default 5m; not for github
//		max_body  SIZE                      # default 1MiB
//		event_id  header NAME | json PATH   # where the event's id is; not for standard
//		ingest    [QUEUE]                   # keep the event and answer at once; default queue webhooks
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	if err := dispense.String(d, &h.Scheme); err != nil {
		return err
	}
	if _, ok := signature.Schemes[h.Scheme]; !ok {
		return d.WrapErr(unknownScheme(h.Scheme))
	}
	err := dispense.Block(d, "webhook_verify",
		dispense.Option{Name: "secret", Repeats: true, Parse: h.parseSecret},
		dispense.Option{Name: "tolerance", Parse: h.parseTolerance},
		dispense.Option{Name: "max_body", Parse: func(d *caddyfile.Dispenser) error {
			if err := dispense.Size(d, &h.MaxBody); err != nil {
				return err
			}
			if h.MaxBody == 0 {
				return d.Err("max_body must be above zero")
			}
			return nil
		}},
		dispense.Option{Name: "event_id", Parse: h.parseEventID},
		dispense.Option{Name: "ingest", Parse: func(d *caddyfile.Dispenser) error {
			h.Ingest = defaultQueue
			if !d.NextArg() {
				return nil
			}
			h.Ingest = d.Val()
			return dispense.End(d, "ingest")
		}},
	)
	if err != nil {
		return err
	}
	if len(h.Secrets) == 0 {
		return d.Errf("webhook_verify %s needs a secret, give the name of one: secret NAME", h.Scheme)
	}
	return nil
}

func (h *Handler) parseSecret(d *caddyfile.Dispenser) error {
	var name string
	if err := dispense.String(d, &name); err != nil {
		return err
	}
	h.Secrets = append(h.Secrets, name)
	return nil
}

func (h *Handler) parseTolerance(d *caddyfile.Dispenser) error {
	if !signature.Schemes[h.Scheme].Timed {
		return d.Errf("webhook_verify %s signs no time, remove tolerance", h.Scheme)
	}
	if err := dispense.Duration(d, &h.Tolerance); err != nil {
		return err
	}
	if h.Tolerance == 0 {
		return d.Err("tolerance must be above zero")
	}
	return nil
}

func (h *Handler) parseEventID(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) != 2 {
		return d.Err("event_id needs a source and its argument, such as: event_id json data.id")
	}
	switch args[0] {
	case "header":
		h.EventID = &EventID{Header: args[1]}
	case "json":
		h.EventID = &EventID{JSON: args[1]}
	default:
		return d.Errf("event_id: %s", dispense.Unknown("source", args[0], []string{"header", "json"}))
	}
	if _, err := newFinder(signature.Schemes[h.Scheme], h.EventID); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// Interface guard
var _ caddyfile.Unmarshaler = (*Handler)(nil)
