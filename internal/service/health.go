package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

// State is how well a part or the whole works.
type State string

const (
	// OK is all as it should be.
	OK State = "ok"
	// IsDegraded serves with less than it should have. It is ready: others would not serve better.
	IsDegraded State = "degraded"
	// Failed cannot do its work. Requests should go elsewhere.
	Failed State = "failed"
)

// healthTime bounds how long the checks of one answer may take together.
const healthTime = time.Second

// Degraded marks what Check returns as a state in which the service still does part of its work, such as
// reading from a store that is full.
func Degraded(err error) error { return degraded{err} }

type degraded struct{ error }

func (e degraded) Unwrap() error { return e.error }

// StateOf is the state that an error of Check stands for.
func StateOf(err error) State {
	if err == nil {
		return OK
	}
	if _, ok := errors.AsType[degraded](err); ok {
		return IsDegraded
	}
	return Failed
}

// Health is the answer to /readyz: whether requests should be sent here.
type Health struct {
	Status State  `json:"status"`
	Checks []Part `json:"checks"`
}

// Part is the state of one backend, of the data directory, or of a directive.
type Part struct {
	Name   string `json:"name"`
	State  State  `json:"state"`
	Detail string `json:"detail,omitempty"`

	err error
}

// Health asks all parts for their state: the data directory and the open backends in the order of their
// names, then the secrets that could not be read anew. It takes a second at most.
func (h *Host) Health(ctx context.Context) Health {
	ctx, cancel := context.WithTimeout(ctx, healthTime)
	defer cancel()
	all := Health{Status: OK, Checks: []Part{}}
	checks := h.Check(ctx)
	for _, name := range slices.Sorted(maps.Keys(checks)) {
		p := Part{Name: name, State: StateOf(checks[name]), err: checks[name]}
		if p.err != nil {
			p.Detail = p.err.Error()
		}
		all.Add(p)
	}
	for _, s := range h.SecretStatus() {
		if s.Error != "" {
			all.Add(Part{Name: "secret " + s.Name, State: IsDegraded, Detail: "what was good before is in force until its end: " + s.Error})
		}
	}
	return all
}

// Add adds a part, of which the whole is at best as well as it.
func (h *Health) Add(p Part) {
	p.Detail = oneLine(p.Detail)
	h.Checks = append(h.Checks, p)
	if p.State == Failed || p.State == IsDegraded && h.Status == OK {
		h.Status = p.State
	}
}

// Unready is the health of a process of which one part has failed, and nothing else is known.
func Unready(name, why string) Health {
	h := Health{Status: OK}
	h.Add(Part{Name: name, State: Failed, Detail: why})
	return h
}

// ServeHTTP answers a probe: 200, or 503 where a part has failed. The short form is the status as a word, or the problem
// of the first part that failed, without its cause. The verbose form, ?verbose, lists every part with it.
func (h Health) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !r.URL.Query().Has("verbose") {
		h.writeShort(w, r)
		return
	}
	status := http.StatusOK
	if h.Status == Failed {
		status = http.StatusServiceUnavailable
		w.Header().Set("Retry-After", "1")
	}
	body, media := h.text(), "text/plain; charset=utf-8"
	if strings.Contains(r.Header.Get("Accept"), "json") {
		b, _ := json.Marshal(h) //nolint:errchkjson // strings always encode
		body, media = append(b, '\n'), "application/json"
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", media)
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

func (h Health) writeShort(w http.ResponseWriter, r *http.Request) {
	if h.Status != Failed {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte(h.Status + "\n"))
		return
	}
	failed := h.Checks[slices.IndexFunc(h.Checks, func(p Part) bool { return p.State == Failed })]
	if failed.err == nil {
		problem.Write(w, r, (&problem.Error{Code: problem.Unavailable, Detail: failed.Detail, RetryAfter: time.Second}))
		return
	}
	problem.Write(w, r, Unavailable(failed.Name, failed.err))
}

func (h Health) text() []byte {
	var b strings.Builder
	for _, p := range h.Checks {
		mark := map[State]string{OK: "+", IsDegraded: "~", Failed: "-"}[p.State]
		_, _ = fmt.Fprintf(&b, "[%s] %s: %s", mark, p.Name, p.State)
		if p.Detail != "" {
			b.WriteString(", " + p.Detail)
		}
		b.WriteByte('\n')
	}
	b.WriteString(string(h.Status) + "\n")
	return []byte(b.String())
}

// oneLine keeps a text to its line.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
}
