// Package httpcache is the directive `http_cache`: a shared HTTP cache (RFC 9111) in the memory of
// the backend cache.
package httpcache

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/gatehouse-proxy/gatehouse/backends/cache"
	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
	"github.com/gatehouse-proxy/gatehouse/modules/gatehouse"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/frontdoor"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/refuse"
)

const defaultMaxObject = 1 << 20

// Handler answers GET and HEAD requests from memory where it has a fresh response, and otherwise
// calls the next handler and keeps what comes back if the response allows it.
//
// Kept are responses to GET with a status of 200, 203, 204, 300, 301, 308, 404, 405, 410, 414 or 501
// that say how long they are fresh, by CDN-Cache-Control (RFC 9213), s-maxage, max-age or Expires.
// Not kept are responses that say private, no-store or no-cache, to all caches or to CDNs, that set a
// cookie, that vary on * or on who asks, that a split has chosen ({http.split.variant}), that stand in
// for an app behind an open circuit ({http.circuit_breaker.state}), or that are larger than MaxObject.
// A request that carries a Cookie or an X-Api-Key is answered from the cache, but its own response is
// kept only if it says public or s-maxage.
//
// Never answered from the cache, nor kept, are requests that something behind this handler would answer
// before an app does: respond, error and abort, redirections, and whatever asks for an identity or counts
// requests there, in routes of the same site or nested in them. Nor are requests with Authorization, of a user that the
// gateway has authenticated ({http.auth.user.id}) or with a client certificate; requests for ranges,
// with a body, with If-Match or If-Unmodified-Since, or with Cache-Control: no-store; and requests
// with fields such as X-HTTP-Method-Override or X-Original-URL, that may change the answer behind
// the URL's back, or with other fields that Connection names, since the app does not get them. What clients ask for by no-cache or max-age is not heeded.
//
// A response is found by scheme, host, path and query as they are at this point of the journey, by the
// listeners and the routes that lead to this handler, and by the request fields that its Vary names. Behind a trusted proxy the scheme and the host are those
// of X-Forwarded-Proto and X-Forwarded-Host. Requests with unsafe methods that are answered with 2xx
// or 3xx make the responses of their URL, and of a Location or Content-Location on the same host,
// invalid before the client has its answer.
//
// Responses carry Cache-Status (RFC 9211) with the name gatehouse, and hits Age. Fields that were
// set before this handler belong to each response anew; they are neither kept nor lost. If the
// backend is not there, requests pass as if there were no cache.
//
// Placeholder | Description
// ------------|-------------
// `{http.http_cache.stale}` | `yes` if a stale response is at hand for when the app is not
type Handler struct {
	// Tags are the names of response fields that list the response's tags, separated by commas or
	// spaces: at most 64 tags of at most 256 bytes; a response with others is not kept. The fields are
	// removed from what the client gets. Default: none.
	Tags []string `json:"tags,omitempty"`
	// MaxObject is the largest body that is kept; 1/64 of the backend's memory bounds it, too.
	// Default: 1MiB.
	MaxObject unit.Size `json:"max_object,omitempty"`
	// Stale is how long after its freshness a response may answer for an app that fails, with an error
	// or a status of 500, 502, 503 or 504, if the response does not say so itself by stale-if-error (RFC
	// 5861). One that says must-revalidate, proxy-revalidate or s-maxage never does (RFC 9111 section 4.2.4). 0s: none does. Default: none
	// but those that say so, and for 5m while a circuit_breaker behind this handler lets no request pass.
	Stale *unit.Duration `json:"stale,omitempty"`

	ref    *gatehouse.Ref[*cache.Service]
	refuse *refuse.Refuser
	tags   []string // canonical
	limit  int
	stale  *time.Duration
	log    *zap.Logger
	// journey is found with the first request.
	journey atomic.Pointer[journey]
}

// Provision takes hold of the backend cache.
func (h *Handler) Provision(ctx caddy.Context) (err error) {
	if err = frontdoor.Stand(ctx); err != nil {
		return err
	}
	h.log = ctx.Logger()
	h.refuse = refuse.New(h.log)
	h.limit = defaultMaxObject
	if h.MaxObject > 0 {
		h.limit = int(h.MaxObject)
	}
	if h.Stale != nil {
		stale := h.Stale.Std()
		h.stale = &stale
	}
	h.tags = nil
	for _, name := range h.Tags {
		h.tags = append(h.tags, http.CanonicalHeaderKey(name))
	}
	h.ref, err = gatehouse.Need[*cache.Service](ctx, "cache")
	return err
}

// Validate checks the settings.
func (h *Handler) Validate() error {
	for _, name := range h.Tags {
		if !isToken(name) || neverStored(http.CanonicalHeaderKey(name)) {
			return fmt.Errorf("tags: %q is not the name of a header field that can list tags, give one such as Cache-Tag", name)
		}
	}
	return nil
}

// ServeHTTP answers from the cache or from the next handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if upgrades(r) {
		return next.ServeHTTP(w, r)
	}
	store, err := h.ref.Get(r.Context())
	if err != nil {
		return h.pass(w, r, next, "bypass")
	}
	trusted, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool)
	place := h.place(r)
	u := urlOf(r, trusted)
	u.Scope = place.scope
	switch {
	case !safe(r.Method):
		return h.write(w, r, next, store, u)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		return h.pass(w, r, next, "method")
	case !mayUse(r, identified(r), trusted), !place.found, !place.reachesApp(r):
		return h.pass(w, r, next, "bypass")
	}
	why, stale := "uri-miss", standIn{allowed: h.stale}
	now := time.Now()
	if o, ok := store.Load(u); ok {
		var e *entry
		if e, stale.entry, why = o.(*page).find(r.Header, now, store.Valid); e != nil {
			e.serve(w, r, now, hit)
			return nil
		}
	}
	if lines := r.Header["Cache-Control"]; len(lines) > 0 && parseControl(lines).onlyIfCached {
		return h.refuse.Error(w, r, problem.New(problem.UpstreamTimeout, "The cache has no response for this request, and only-if-cached allows no other."))
	}
	return h.miss(w, r, next, store, u, why, stale)
}

// place is where the handler stands on its server. One that cannot be found there keeps nothing.
func (h *Handler) place(r *http.Request) *journey {
	if j := h.journey.Load(); j != nil {
		return j
	}
	srv, ok := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok {
		return new(journey)
	}
	j := locate(h, srv)
	if !j.found {
		h.log.Warn("http_cache keeps nothing here: it is not in the routes of the server but in something between")
	}
	h.journey.Store(j)
	return j
}

// identified says whether an earlier directive has authenticated the request.
func identified(r *http.Request) bool {
	return placeholder(r, "http.auth.user.id") != "" || placeholder(r, "http.jwt_auth.authenticated") == "true"
}

// placeholder is the value that another directive has set, or "".
func placeholder(r *http.Request, name string) string {
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return ""
	}
	v, _ := repl.GetString(name)
	return v
}

// circuitState is set where a circuit_breaker keeps the request from the app.
const circuitState = "http.circuit_breaker.state"

func setPlaceholder(r *http.Request, name, value string) {
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Set(name, value)
	}
}

// urlOf is the request's URL as the app behind the gateway will see it.
func urlOf(r *http.Request, trusted bool) cache.URL {
	u := cache.URL{Scheme: "http", Host: r.Host, Path: r.URL.EscapedPath(), Query: r.URL.RawQuery}
	if r.TLS != nil {
		u.Scheme = "https"
	}
	if r.URL.ForceQuery {
		u.Path += "?"
	}
	if trusted {
		if v := r.Header.Get("X-Forwarded-Proto"); v != "" {
			u.Scheme = v
		}
		if v := r.Header.Get("X-Forwarded-Host"); v != "" {
			u.Host = v
		}
	}
	u.Host = strings.ToLower(u.Host)
	switch u.Scheme {
	case "http":
		u.Host = strings.TrimSuffix(u.Host, ":80")
	case "https":
		u.Host = strings.TrimSuffix(u.Host, ":443")
	}
	return u
}

// announce takes the tags out of a final header and appends to Cache-Status.
func (h *Handler) announce(header http.Header, status string) {
	for _, name := range h.tags {
		delete(header, name)
	}
	header["Cache-Status"] = append(header["Cache-Status"], "gatehouse; fwd="+status)
}

// pass calls the next handler for a request that is not for the cache.
func (h *Handler) pass(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, why string) error {
	return next.ServeHTTP(&recorder{ResponseWriter: w, decide: func(_ int, header http.Header) (bool, int) {
		h.announce(header, why)
		return false, 0
	}}, r)
}

// miss calls the next handler and keeps its response. Where that fails, the stale one may answer.
func (h *Handler) miss(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, store *cache.Service, u cache.URL, why string, stale standIn) error {
	mark := store.Mark(u)
	before, asked, start := w.Header().Clone(), r.Header.Clone(), time.Now()
	var e *entry
	var vary []string
	rec := &recorder{ResponseWriter: w, reserve: store.Reserve, release: store.Release}
	rec.decide = func(status int, header http.Header) (bool, int) {
		limit := min(h.limit, store.MaxObject())
		if rec.length <= limit && placeholder(r, "http.split.variant") == "" && placeholder(r, circuitState) == "" {
			e, vary = h.entryOf(r.Method, asked, before, header, status, start, store, mark)
		}
		h.announce(header, why+storedParam(e))
		return e != nil, limit
	}
	answer := func(status int) bool {
		now, open := time.Now(), placeholder(r, circuitState) != ""
		if !stale.may(now, open) || r.Context().Err() != nil {
			return false
		}
		clear(w.Header())
		maps.Copy(w.Header(), before)
		stale.entry.serve(w, r, now, stale.status(status, open))
		return true
	}
	if now := time.Now(); stale.may(now, true) {
		rec.replace = func(status int) bool { return fails(status) && answer(status) }
		setPlaceholder(r, "http.http_cache.stale", "yes")
	}
	defer func() {
		rec.giveUp()
		if !rec.replaced {
			return
		}
		if v := recover(); v != nil && v != http.ErrAbortHandler { //nolint:errorlint // a panic's value, as net/http compares it
			panic(v)
		}
	}()
	err := next.ServeHTTP(rec, r)
	failed, ok := errors.AsType[caddyhttp.HandlerError](err)
	if rec.replaced || ok && rec.status == 0 && fails(failed.StatusCode) && answer(0) {
		return nil
	}
	if err != nil || e == nil || r.Context().Err() != nil {
		return err
	}
	body, err := rec.whole()
	if err != nil {
		return nil // the client has its response
	}
	e.finish(body)
	store.Store(u, mark, func(old cache.Object) cache.Object {
		p, _ := old.(*page)
		return p.with(vary, e, time.Now(), 8*store.MaxObject(), store.Valid)
	})
	return nil
}

func storedParam(e *entry) string {
	if e == nil {
		return ""
	}
	return "; stored"
}

// entryOf is the entry of a response whose header is about to go out, without its body, and the
// fields that it varies on; nil if it must not be kept.
func (h *Handler) entryOf(method string, asked, before, header http.Header, status int, start time.Time, store *cache.Service, mark cache.Mark) (*entry, []string) {
	received := time.Now()
	c := parseControl(header["Cache-Control"])
	fresh, explicit := lifetime(c, header, received)
	age := initialAge(header, start, received)
	if !explicit || fresh <= age || !storable(method, asked, status, header, c) {
		return nil, nil
	}
	var tags []string
	for _, name := range h.tags {
		var ok bool
		if tags, ok = parseTags(tags, header[name]); !ok {
			return nil, nil
		}
	}
	vary, _ := parseVary(header["Vary"])
	e := &entry{status: status, vary: varyValues(vary, asked), age: age, received: received, until: received.Add(fresh - age),
		etag: header.Get("Etag"), stamp: store.NewStamp(mark, tags)}
	e.modified, _ = onlyDate(header["Last-Modified"])
	e.grace = grace{forbidden: mustNotServeStale(c, header), onError: c.staleIfError}
	e.setFields(before, header, h.tags)
	if len(header["Date"]) == 0 {
		e.addField("Date", []string{received.UTC().Format(http.TimeFormat)}, false)
	}
	return e, vary
}

// finish gives the entry its body.
func (e *entry) finish(body []byte) {
	e.body = body
	if e.status != http.StatusNoContent {
		e.addField("Content-Length", []string{strconv.Itoa(len(body))}, false)
	}
}

// write calls the next handler for a request that changes something, and forgets what it may have
// changed before the client learns that it did.
func (h *Handler) write(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, store *cache.Service, u cache.URL) (err error) {
	rec := &recorder{ResponseWriter: w, decide: func(status int, header http.Header) (bool, int) {
		if status < 400 {
			store.Forget(u)
			for _, name := range []string{"Location", "Content-Location"} {
				if other, ok := sameOrigin(r.URL, u, header.Get(name)); ok {
					store.Forget(other)
				}
			}
		}
		h.announce(header, "method")
		return false, 0
	}}
	known := false
	defer func() {
		if rec.status == 0 && !known {
			store.Forget(u) // the app may have done its part, we cannot tell
		}
	}()
	err = next.ServeHTTP(rec, r)
	refusal, ok := errors.AsType[caddyhttp.HandlerError](err)
	known = ok && refusal.StatusCode >= 400 && refusal.StatusCode < 500
	return err
}

// sameOrigin is where a reference in a response leads, if that is on the host that was asked: a
// response must not make another host's invalid.
func sameOrigin(base *url.URL, u cache.URL, ref string) (cache.URL, bool) {
	if ref == "" {
		return u, false
	}
	to, err := url.Parse(ref)
	if err != nil {
		return u, false
	}
	from := url.URL{Scheme: u.Scheme, Host: u.Host, Path: base.Path, RawPath: base.RawPath}
	to = from.ResolveReference(to)
	same := to.Scheme == u.Scheme && strings.EqualFold(to.Host, u.Host) && to.User == nil
	return cache.URL{Scope: u.Scope, Scheme: u.Scheme, Host: u.Host, Path: to.EscapedPath(), Query: to.RawQuery}, same
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.Validator             = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
