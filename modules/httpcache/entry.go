package httpcache

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/cache"
)

// page is all that is kept for one URL: responses that differ by the same request fields.
type page struct {
	vary    []string // names of request fields, sorted
	entries []*entry // newest first
}

// entry is one response. It is never changed, and none of its slices leaves it.
type entry struct {
	status   int
	fields   []field
	values   []string // of all fields, one after another
	body     []byte
	vary     []string // the request's values of page.vary
	age      time.Duration
	received time.Time
	until    time.Time // fresh before it
	grace    grace
	etag     string
	modified time.Time // Last-Modified; zero for none
	stamp    *cache.Stamp
}

// field is a header field: values[from:to]. One that adds goes after values that the gateway has
// set itself for this response; the others replace them.
type field struct {
	name     string
	from, to int
	adds     bool
}

const hit = "gatehouse; hit"

// weight is the entry's size in memory.
func (e *entry) weight() int {
	n := 400 + len(e.body) + 64*len(e.fields)
	for _, v := range e.values {
		n += len(v) + 16
	}
	for _, v := range e.vary {
		n += len(v) + 16
	}
	return n
}

// Weight is the page's size in memory.
func (p *page) Weight() int {
	n := 64
	for _, e := range p.entries {
		n += e.weight()
	}
	return n
}

// find is the entry that answers a request; or why there is none, in the words of Cache-Status, and
// the stale one that would be it.
func (p *page) find(h http.Header, now time.Time, valid func(*cache.Stamp) bool) (fresh, stale *entry, why string) {
	why = "uri-miss"
	for _, e := range p.entries {
		switch {
		case !valid(e.stamp):
		case !varyMatches(p.vary, e.vary, h):
			if why == "uri-miss" {
				why = "vary-miss"
			}
		case !now.Before(e.until):
			if why = "stale"; stale == nil {
				stale = e
			}
		default:
			return e, nil, ""
		}
	}
	return nil, stale, why
}

// with is the page with a new entry, which replaces those for the same request. A change of the
// fields that it varies on replaces them all. The oldest go where there are more than maxVariants
// or they weigh more than limit.
func (p *page) with(vary []string, e *entry, now time.Time, limit int, valid func(*cache.Stamp) bool) *page {
	next := &page{vary: vary, entries: []*entry{e}}
	if p == nil || !slices.Equal(p.vary, vary) {
		return next
	}
	weight := e.weight()
	for _, old := range p.entries {
		if slices.Equal(old.vary, e.vary) || !now.Before(old.until) || !valid(old.stamp) {
			continue
		}
		if weight += old.weight(); weight > limit || len(next.entries) >= maxVariants {
			break
		}
		next.entries = append(next.entries, old)
	}
	return next
}

// setFields keeps what the app added to the response's fields beyond those that were there before
// it: those belong to each response anew. named are the fields that Connection lists.
func (e *entry) setFields(before, h http.Header, omit []string) {
	var named []string
	for _, line := range h["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			named = append(named, http.CanonicalHeaderKey(strings.TrimSpace(name)))
		}
	}
	for name, values := range h {
		if neverStored(name) || slices.Contains(named, name) || slices.Contains(omit, name) {
			continue
		}
		old := before[name]
		if slices.Equal(old, values) && len(old) > 0 {
			continue
		}
		adds := len(old) > 0 && len(values) > len(old) && slices.Equal(values[:len(old)], old)
		if adds {
			values = values[len(old):]
		}
		e.addField(name, values, adds)
	}
}

func (e *entry) addField(name string, values []string, adds bool) {
	from := len(e.values)
	for _, v := range values {
		e.values = append(e.values, strings.Clone(v))
	}
	e.fields = append(e.fields, field{strings.Clone(name), from, len(e.values), adds})
}

// serve answers a request from the entry. how is what Cache-Status says, to which a hit adds its ttl.
func (e *entry) serve(w http.ResponseWriter, r *http.Request, now time.Time, how string) {
	h := w.Header()
	unchanged := e.status == http.StatusOK && conditional(r.Header) && notModified(r.Header, e.etag, e.modified)
	// One copy of all values: other handlers may change what they find in the header.
	slab := make([]string, len(e.values)+2)
	copy(slab, e.values)
	for _, f := range e.fields {
		if unchanged && ofBody(f.name) {
			continue
		}
		values := slab[f.from:f.to:f.to]
		if f.adds {
			values = append(slices.Clip(h[f.name]), values...)
		}
		h[f.name] = values
	}
	n := len(e.values)
	slab[n] = strconv.FormatInt(int64((e.age+now.Sub(e.received))/time.Second), 10)
	h["Age"] = slab[n : n+1 : n+1]
	slab[n+1] = how
	if how == hit {
		slab[n+1] = hit + "; ttl=" + strconv.FormatInt(int64(e.until.Sub(now)/time.Second), 10)
	}
	status := slab[n+1 : n+2 : n+2]
	if upstream := h["Cache-Status"]; len(upstream) > 0 {
		status = append(slices.Clip(upstream), status...)
	}
	h["Cache-Status"] = status
	if unchanged {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	w.WriteHeader(e.status)
	if r.Method != http.MethodHead && len(e.body) > 0 {
		_, _ = w.Write(e.body) //nolint:gosec // the app's own body
	}
}

func conditional(h http.Header) bool {
	return len(h["If-None-Match"]) > 0 || len(h["If-Modified-Since"]) > 0
}

// ofBody says whether a field describes a body, which a 304 does not have.
func ofBody(name string) bool {
	switch name {
	case "Content-Length", "Content-Type", "Content-Encoding", "Content-Language":
		return true
	}
	return false
}
