package cache

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/httpapi"
	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

// maxJSON bounds the JSON bodies: 2000 names of at most 512 bytes, escaped.
const maxJSON = 4 << 20

// ServeHTTP is the API:
//
//	GET, HEAD /cache/{key}              the value, with Age and Cache-Status; 404
//	PUT       /cache/{key}?ttl=&tag=    the body becomes the value; tags also in Cache-Tag; 201 or 204,
//	                                    and 412 with If-None-Match: * where there is a value
//	DELETE    /cache/{key}              204, also if there was none
//	POST      /cache/{key}/fill         {url, ttl?, tags?}: the value, fetched from url if there is none
//	POST      /cache/invalidate         {keys?, tags?}
//
// Keys and tags are the caller's own; a service or an operator names the owner whose they are by ?owner=, and
// means nobody's without. Fills are for services and operators: they read what the gateway may read.
//
// A key is all that follows /cache/, slashes included. Only POST has acts, and its last segment
// names the act, so a key may be called invalidate or end in /fill for all other methods.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if escaped := r.URL.EscapedPath(); strings.HasPrefix(escaped, prefix) && !cleanPath(escaped) {
		problem.Write(w, r, problem.New(problem.InvalidRequest,
			"The slashes of a key must be written as %%2F where they begin it, where two of them meet and where they surround dots."))
		return
	}
	s.router.ServeHTTP(w, r)
}

func (s *Service) get(w http.ResponseWriter, r *http.Request) error {
	_, key, err := scopedKey(r, r.URL.EscapedPath())
	if err != nil {
		return err
	}
	it, level, err := s.state.lookup(r.Context(), key)
	if err != nil {
		return err
	}
	if it == nil {
		return problem.New(problem.NotFound, "There is no value under this key, or it has expired.")
	}
	s.answer(w, r, it, hit(it, level))
	return nil
}

func hit(it *item, level string) string {
	return "hit; ttl=" + strconv.Itoa(int(time.Until(it.expires)/time.Second)) + "; detail=" + level
}

// answer writes the value. status is what follows the cache's name in Cache-Status (RFC 9211).
func (s *Service) answer(w http.ResponseWriter, r *http.Request, it *item, status string) {
	h := w.Header()
	h.Set("Content-Type", it.contentType)
	h.Set("Content-Length", strconv.Itoa(len(it.value)))
	h.Set("Age", strconv.Itoa(max(0, int(time.Since(it.created)/time.Second))))
	h.Set("Cache-Status", "gatehouse; "+status)
	h.Set("Cache-Control", "no-store") // the value may be replaced at any moment
	h.Set("X-Content-Type-Options", "nosniff")
	if !s.cfg.Inline { // what a client stored is a page of the site otherwise
		h.Set("Content-Security-Policy", "sandbox")
		h.Set("Content-Disposition", "attachment")
	}
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		_, _ = w.Write(it.value) //nolint:gosec // the value as it was put, with its own type and nosniff
	}
}

func (s *Service) put(w http.ResponseWriter, r *http.Request) error {
	owner, key, err := scopedKey(r, r.URL.EscapedPath())
	if err != nil {
		return err
	}
	q := r.URL.Query()
	ttl, err := parseTTL(q.Get("ttl"), s.cfg.DefaultTTL.Std())
	if err != nil {
		return err
	}
	tags, err := parseTags(q["tag"], r.Header["Cache-Tag"])
	if err != nil {
		return err
	}
	contentType, err := parseContentType(r.Header.Get("Content-Type"))
	if err != nil {
		return err
	}
	m, err := s.state.markNow(r.Context(), URL{Path: key}) // before the value is known: what is invalidated from here on wins
	if err != nil {
		return err
	}
	value, err := httpapi.ReadBody(w, r, int64(s.cfg.MaxValue))
	if err != nil {
		return err
	}
	create, err := createOnly(r)
	if err != nil {
		return err
	}
	_, isNew, err := s.state.save(key, newItem(value, contentType, scopedTags(owner, tags), m, ttl), create, nil)
	switch {
	case err != nil:
		return err
	case create && !isNew:
		return problem.New(problem.PreconditionFailed, "There is a value under this key already, and If-None-Match: * asks for a new one.")
	case isNew:
		w.WriteHeader(http.StatusCreated)
		return nil
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// createOnly reports whether the request may only create a value, by If-None-Match: * (RFC 9110 section
// 13.1.2). Values have no entity tags that other conditions could name.
func createOnly(r *http.Request) (bool, error) {
	switch values := r.Header.Values("If-None-Match"); {
	case len(values) == 0 && r.Header.Get("If-Match") == "":
		return false, nil
	case len(values) == 1 && strings.TrimSpace(values[0]) == "*" && r.Header.Get("If-Match") == "":
		return true, nil
	}
	return false, problem.New(problem.InvalidRequest, "The only condition on a value is If-None-Match: *, which creates it.")
}

func newItem(value []byte, contentType string, tags []string, m Mark, ttl time.Duration) *item {
	now := time.Now()
	it := &item{value: slices.Clip(value), contentType: contentType, created: now, expires: now.Add(ttl)}
	it.tags, it.born = tags, m.born
	return it
}

func (s *Service) delete(w http.ResponseWriter, r *http.Request) error {
	_, key, err := scopedKey(r, r.URL.EscapedPath())
	if err != nil {
		return err
	}
	if err = s.state.drop([]string{key}, nil); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// act dispatches POST by the last segment of the path.
func (s *Service) act(w http.ResponseWriter, r *http.Request) error {
	escaped := r.URL.EscapedPath()
	if escaped == prefix+"invalidate" {
		return s.invalidate(w, r)
	}
	if rest, ok := strings.CutSuffix(strings.TrimPrefix(escaped, prefix), "/fill"); ok {
		if err := httpapi.CallerOf(r.Context()).CheckAny(); err != nil {
			return err
		}
		owner, key, err := scopedKey(r, prefix+rest)
		if err != nil {
			return err
		}
		return s.fill(w, r, owner, key)
	}
	e := problem.New(problem.MethodNotAllowed, "POST acts on %s{key}/fill or %sinvalidate, to write a value use PUT.", prefix, prefix)
	e.Header = http.Header{"Allow": {"DELETE, GET, PUT, HEAD, OPTIONS"}}
	return e
}

func (s *Service) invalidate(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Keys []string `json:"keys"`
		Tags []string `json:"tags"`
	}
	if err := httpapi.DecodeJSON(w, r, maxJSON, &in); err != nil {
		return err
	}
	if len(in.Keys) == 0 && len(in.Tags) == 0 {
		return problem.New(problem.InvalidRequest, "Name at least one of keys or tags to invalidate.")
	}
	if len(in.Keys) > maxList {
		return problem.New(problem.InvalidRequest, "At most %d keys can be given at once, not %d.", maxList, len(in.Keys))
	}
	for _, key := range in.Keys {
		if err := checkKey(key); err != nil {
			return err
		}
	}
	if err := checkTags(in.Tags, maxList); err != nil {
		return err
	}
	owner, err := httpapi.OwnerAsked(r)
	if err != nil {
		return err
	}
	if err = s.state.drop(scopedAll(owner, in.Keys), scopedAll(owner, in.Tags)); err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, map[string]any{
		"invalidated": map[string]int{"keys": len(in.Keys), "tags": len(in.Tags)},
	})
}
