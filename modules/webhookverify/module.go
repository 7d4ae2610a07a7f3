// Package webhookverify is the directive `webhook_verify`: it lets a webhook pass only if its
// sender signed exactly these bytes and not long ago, and can take it in at once: verified, kept
// once, answered, and delivered to the app from a queue.
package webhookverify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/gatehouse-proxy/gatehouse/backends/webhooks"
	"github.com/gatehouse-proxy/gatehouse/internal/body"
	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/internal/secret"
	"github.com/gatehouse-proxy/gatehouse/internal/signature"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
	"github.com/gatehouse-proxy/gatehouse/modules/gatehouse"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/dispense"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/frontdoor"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/refuse"
)

const (
	defaultMaxBody = 1 << 20
	// ingestTime bounds the taking in: senders wait 3 to 30 s for an answer.
	ingestTime = 5 * time.Second
	// ingestRetry is when a sender may try again after the database failed.
	ingestRetry = 5 * time.Second
)

// Handler verifies webhooks. A request that is not genuine is answered 401, a body over the cap
// 413, another method than POST 405. A genuine one goes on with the same bytes as its body, and with
// two placeholders:
//
//	{http.webhook_verify.id}      the event's id, or "sha256:" and the body's hash for an event without one
//	{http.webhook_verify.scheme}  the scheme
type Handler struct {
	// Scheme is how the sender signs: github, standard, stripe or timestamped. Required.
	Scheme string `json:"scheme"`
	// Secrets are the names of secrets of the app gatehouse; a signature under any of them is
	// genuine. A standard secret is whsec_ and base64, the others are used as they are. Required.
	Secrets []string `json:"secrets"`
	// Tolerance is how far the signed time may be from now, in either direction. Not for github,
	// which signs no time. Default: 5m.
	Tolerance unit.Duration `json:"tolerance,omitempty"`
	// MaxBody is the largest body. Default: 1 MiB.
	MaxBody unit.Size `json:"max_body,omitempty"`
	// EventID is where the event's id is found. Not for standard, which signs the id in its header.
	// Default: the JSON member id for stripe; X-GitHub-Delivery for github; for timestamped the
	// JSON member id, or X-Webhook-Id where there is none.
	EventID *EventID `json:"event_id,omitempty"`
	// Ingest is the queue of the jobs backend that events are taken in to; it must have a target.
	// The sender is answered 200 as soon as the event is on disk, and an event that comes again is
	// answered 200 and not enqueued again. An event is known by its scheme, the request's path and
	// its id, or its body's hash if it has no id. Default: none, so requests go on to the next handler.
	Ingest string `json:"ingest,omitempty"`

	scheme    *signature.Scheme
	keys      []*secret.Derived[[]key] // one for each secret
	tolerance time.Duration
	maxBody   int64
	find      finder
	receiver  *gatehouse.Ref[Receiver]
	refuse    *refuse.Refuser
	log       *slog.Logger
}

// Receiver takes verified events in; the webhooks backend is one.
type Receiver interface {
	// Receive keeps the event and enqueues it, or says that it was received before. An error means
	// that nothing was kept.
	Receive(ctx context.Context, e webhooks.Received) (duplicate bool, err error)
	// CanReceive says why events for the queue could not be delivered; nil if they can.
	CanReceive(queue string) error
}

// Provision checks the configuration and reads the secrets.
func (h *Handler) Provision(ctx caddy.Context) (err error) {
	if err = frontdoor.Stand(ctx); err != nil {
		return err
	}
	h.refuse = refuse.New(ctx.Logger())
	h.log = ctx.Slogger()
	var ok bool
	if h.scheme, ok = signature.Schemes[h.Scheme]; !ok {
		return unknownScheme(h.Scheme)
	}
	if h.find, err = newFinder(h.scheme, h.EventID); err != nil {
		return err
	}
	if h.Tolerance != 0 && !h.scheme.Timed {
		return fmt.Errorf("webhook_verify %s signs no time, remove tolerance", h.Scheme)
	}
	h.tolerance = h.Tolerance.Or(signature.DefaultTolerance)
	h.maxBody = int64(h.MaxBody)
	if h.maxBody == 0 {
		h.maxBody = defaultMaxBody
	}
	if err = h.loadKeys(ctx); err != nil {
		return err
	}
	if h.Ingest == "" {
		return nil
	}
	if h.receiver, err = gatehouse.Need[Receiver](ctx, "webhooks"); err != nil {
		return err
	}
	h.receiver.AtStart(func(r Receiver) error { return r.CanReceive(h.Ingest) })
	return nil
}

func (h *Handler) loadKeys(ctx caddy.Context) error {
	if len(h.Secrets) == 0 {
		return fmt.Errorf("webhook_verify %s needs a secret, give the name of one: secret NAME", h.Scheme)
	}
	app, err := gatehouse.Of(ctx)
	if err != nil {
		return err
	}
	for _, name := range h.Secrets {
		set, err := app.Secret(name)
		if err != nil {
			return err
		}
		keys := newKeys(h.scheme, set)
		if len(set.Versions()) > 0 { // or it is read at the start
			if _, err = keys.Get(); err != nil {
				return err
			}
		}
		keys.Failed = func(err error) {
			h.log.Warn("a version of a secret cannot be used and is left out", "error", err)
		}
		h.keys = append(h.keys, keys)
	}
	return nil
}

func unknownScheme(name string) error {
	return errors.New(dispense.Unknown("webhook scheme", name, slices.Sorted(maps.Keys(signature.Schemes))))
}

// ServeHTTP lets genuine webhooks pass.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if r.Method != http.MethodPost {
		return h.refuse.Error(w, r, notPost())
	}
	if err := h.scheme.Check(r.Header); err != nil { // before anything is read for a stranger
		return h.refuse.Error(w, r, forged(err))
	}
	client, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	content, err := body.Read(w, r, h.maxBody, client)
	if err != nil {
		return h.refuse.Error(w, r, err)
	}
	event, err := verify(h.scheme, time.Now(), r.Header, content, h.tolerance, h.keys)
	if err != nil {
		return h.refuse.Error(w, r, forged(err))
	}
	id := h.find.id(event.ID, r.Header, content)
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Set("http.webhook_verify.id", id)
		repl.Set("http.webhook_verify.scheme", h.scheme.Name)
	}
	if h.Ingest == "" {
		restore(r, content)
		return next.ServeHTTP(w, r)
	}
	duplicate, err := h.ingest(r, id, content)
	if err != nil {
		return h.refuse.Error(w, r, err)
	}
	return writeTaken(w, id, duplicate)
}

// ingest hands the event over. remote: 5s, fails closed, so that the sender comes again.
func (h *Handler) ingest(r *http.Request, id string, body []byte) (duplicate bool, err error) {
	receiver, err := h.receiver.Get(r.Context())
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), ingestTime)
	defer cancel()
	original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	if !ok || original.URL == nil {
		original = *r
	}
	duplicate, err = receiver.Receive(ctx, webhooks.Received{
		Scheme: h.scheme.Name, Endpoint: endpoint(original.URL.Path), Queue: h.Ingest, EventID: id,
		Header: forwarded(r.Header, h.scheme, h.find.header), Body: body,
	})
	if err == nil || r.Context().Err() != nil {
		return duplicate, err
	}
	if _, ok := errors.AsType[*problem.Error](err); ok {
		return false, err
	}
	return false, (&problem.Error{
		Code: problem.Unavailable, RetryAfter: ingestRetry, Detail: "The event could not be stored, send it again.",
	}).Because(err)
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
	_ Receiver                    = (*webhooks.Service)(nil)
)
