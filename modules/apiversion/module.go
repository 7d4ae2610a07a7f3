// Package apiversion is the directive `api_version`: it settles which version of the API a request is
// for, announces the end of old versions, and answers for those that are retired.
package apiversion

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/frontdoor"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/refuse"
)

// Handler reads the version from the path: the segment behind a prefix. A request with a version
// passes unchanged. One without gets the latest version's path, or passes unchanged if no latest is
// named. An unknown version is answered 404, a retired one 410. Names are matched exactly, in the
// decoded path as path.Clean leaves it. A version behind a prefix that differs in case is answered
// 404, too: an app might take it for the prefix.
//
// Responses carry Deprecation, Sunset and Link as configured, also errors. What the app sends of
// Link stays; its Deprecation and Sunset are replaced where the version has them.
//
// Placeholders:
//
//	{http.api_version.name}    the version, such as v1; empty for a path without one
//	{http.api_version.status}  current, deprecated or sunset; empty as well
type Handler struct {
	// From says where the version stands. Required.
	From From `json:"from"`
	// Versions are the versions that there are, at least one.
	Versions []Version `json:"versions"`
	// Latest is the version for requests that name none. Default: they pass unchanged.
	Latest string `json:"latest,omitempty"`

	plan   *plan
	refuse *refuse.Refuser
}

// From is the place of the version in a request.
type From struct {
	// Path is the prefix whose next segment is the version: /api for /api/v1/users, / for /v1/users.
	Path string `json:"path"`
}

// Provision compiles the versions.
func (h *Handler) Provision(ctx caddy.Context) (err error) {
	if err = frontdoor.Stand(ctx); err != nil {
		return err
	}
	h.refuse = refuse.New(ctx.Logger())
	if h.plan, err = compile(h.From.Path, h.Versions, h.Latest); err != nil {
		return err
	}
	// A warning and no error: a configuration must not stop to start because a day has passed.
	if err := h.plan.checkLatest(time.Now()); err != nil {
		ctx.Logger().Warn("requests that name no version are refused", zap.Error(err))
	}
	return nil
}

// ServeHTTP settles the version of the request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	now := time.Now()
	d := h.plan.Decide(now, r.URL)
	d.tell(r)
	if d.unknown {
		return h.refuse.Error(w, r, problem.New(problem.NotFound, "There is no such version of this API, known are: %s.",
			strings.Join(h.plan.living(now), ", ")))
	}
	if d.version == nil {
		return next.ServeHTTP(w, r)
	}
	a := d.announcement()
	a.set(w.Header())
	if d.Status == Sunset {
		return h.refuse.Error(w, r, d.gone())
	}
	if d.rewritten {
		r.URL.Path, r.URL.RawPath = d.path, d.raw
		r.RequestURI = r.URL.RequestURI()
	}
	if !a.empty() {
		w = &announcer{ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w}, announcement: a}
	}
	return next.ServeHTTP(w, r)
}

// tell sets the placeholders.
func (d *Decision) tell(r *http.Request) {
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return
	}
	name := ""
	if d.version != nil {
		name = d.version.Name
	}
	repl.Set("http.api_version.name", name)
	repl.Set("http.api_version.status", string(d.Status))
}

// announcement is what the responses of a version say about it: values of header fields, nil for none.
type announcement struct{ deprecation, sunset, links []string }

func (d *Decision) announcement() announcement {
	a := announcement{d.version.deprecation, d.version.sunset, d.version.links}
	if d.successor != "" {
		a.links = append(slices.Clip(a.links), "<"+d.successor+`>; rel="successor-version"`)
	}
	return a
}

func (a announcement) empty() bool { return a.deprecation == nil && a.sunset == nil && a.links == nil }

// set puts the fields on h and keeps the links that are there. Setting twice is setting once.
func (a announcement) set(h http.Header) {
	if a.deprecation != nil {
		h["Deprecation"] = slices.Clone(a.deprecation)
	}
	if a.sunset != nil {
		h["Sunset"] = slices.Clone(a.sunset)
	}
	for _, l := range a.links {
		if !slices.Contains(h["Link"], l) {
			h["Link"] = append(h["Link"], l)
		}
	}
}

// announcer sets the fields once more when the response begins. They are set before, so that errors
// have them; but reverse_proxy adds the app's own to them, and two Deprecation fields would be none
// (RFC 9651 section 4.2), while other handlers may have replaced them.
type announcer struct {
	*caddyhttp.ResponseWriterWrapper
	announcement
	begun bool
}

func (w *announcer) WriteHeader(status int) {
	if !w.begun && (status >= 200 || status == http.StatusSwitchingProtocols) {
		w.begin()
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *announcer) begin() {
	w.begun = true
	w.set(w.Header())
}

func (w *announcer) Write(b []byte) (int, error) {
	if !w.begun {
		w.begin()
	}
	return w.ResponseWriter.Write(b)
}

// ReadFrom keeps the fast path for files.
func (w *announcer) ReadFrom(r io.Reader) (int64, error) {
	if !w.begun {
		w.begin()
	}
	return w.ResponseWriterWrapper.ReadFrom(r)
}

// FlushError begins the response, as it does for the writer below.
func (w *announcer) FlushError() error {
	if !w.begun {
		w.begin()
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// gone is the error for a retired version.
func (d *Decision) gone() *problem.Error {
	detail := "Version %s of this API was retired on %s."
	args := []any{d.version.Name, day(d.version.Sunset)}
	if d.successor == "" {
		return problem.New(problem.VersionSunset, detail, args...)
	}
	e := problem.New(problem.VersionSunset, detail[:len(detail)-1]+", use %s instead.", append(args, d.successor)...)
	e.Extra = map[string]any{"successor": d.successor}
	return e
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
	_ http.ResponseWriter         = (*announcer)(nil)
	_ io.ReaderFrom               = (*announcer)(nil)
)
