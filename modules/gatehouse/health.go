package gatehouse

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

// checkTime bounds how long the checks of one answer may take together.
const checkTime = time.Second

// The states of a part and of the whole.
const (
	stateOK       = "ok"
	stateDegraded = "degraded" // it serves, with less than it should have
	stateFailed   = "failed"
)

// report is what a directive says of itself.
type report struct {
	name   string
	detail func() (text string, ok bool)
}

// Report says in a directive's Provision how /readyz?verbose asks for its state. name is the
// directive's and what tells it from others of its kind, such as "quota minute". detail is called
// while a probe waits, also after the directive's Cleanup, so it looks at memory only: text is one
// short sentence, and ok is false while the directive serves with less than it should have. That
// marks the gateway as degraded and leaves it ready: others would not serve better. Reports end with
// their configuration.
func (a *App) Report(name string, detail func() (text string, ok bool)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.reports = append(a.reports, report{name, detail})
}

// part is the state of one backend or directive.
type part struct {
	Name   string `json:"name"`
	State  string `json:"state"`
	Detail string `json:"detail,omitempty"`
	err    error
}

// health is the answer to /readyz: whether requests should be sent here.
type health struct {
	Status string `json:"status"`
	Checks []part `json:"checks"`
}

// health asks all parts for their state, the backends first.
func (a *App) health(ctx context.Context) health {
	all := health{Status: stateOK, Checks: []part{}}
	if host := a.host.Load(); host != nil {
		ctx, cancel := context.WithTimeout(ctx, checkTime)
		defer cancel()
		checks := host.Check(ctx)
		for _, name := range slices.Sorted(maps.Keys(checks)) {
			p := part{Name: name, State: stateOK}
			if err := checks[name]; err != nil {
				p.State, p.Detail, p.err = stateFailed, oneLine(err.Error()), err
			}
			all.add(p)
		}
		for _, s := range host.SecretStatus() {
			if s.Error != "" {
				all.add(part{Name: "secret " + s.Name, State: stateDegraded, Detail: oneLine("what was good before is in force until its end: " + s.Error)})
			}
		}
	}
	a.mu.Lock()
	reports := slices.Clone(a.reports)
	a.mu.Unlock()
	for _, r := range reports {
		text, ok := r.detail()
		p := part{Name: r.name, State: stateOK, Detail: oneLine(text)}
		if !ok {
			p.State = stateDegraded
		}
		all.add(p)
	}
	return all
}

func (h *health) add(p part) {
	h.Checks = append(h.Checks, p)
	if h.Status != stateFailed && p.State != stateOK {
		h.Status = p.State
	}
	if p.State == stateFailed {
		h.Status = stateFailed
	}
}

// unready is the health of a gateway that has no configuration at work, or that is about to end.
func unready(why string) health {
	return health{Status: stateFailed, Checks: []part{{Name: "gatehouse", State: stateFailed, Detail: why}}}
}

// write answers a probe. The short form is that of the backends on their own: "ok", or the problem
// of the first part that failed, without its cause. The verbose form lists every part with it.
func (h health) write(w http.ResponseWriter, r *http.Request) {
	if !r.URL.Query().Has("verbose") {
		h.writeShort(w, r)
		return
	}
	status := http.StatusOK
	if h.Status == stateFailed {
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
	_, _ = w.Write(body) //nolint:gosec // nothing of it is read as HTML
}

func (h health) writeShort(w http.ResponseWriter, r *http.Request) {
	if h.Status != stateFailed {
		writeLine(w, h.Status)
		return
	}
	failed := h.Checks[slices.IndexFunc(h.Checks, func(p part) bool { return p.State == stateFailed })]
	if failed.err == nil {
		problem.Write(w, r, (&problem.Error{Code: problem.Unavailable, Detail: failed.Detail, RetryAfter: time.Second}))
		return
	}
	problem.Write(w, r, service.Unavailable(failed.Name, failed.err))
}

// writeLine answers 200 with one word.
func writeLine(w http.ResponseWriter, word string) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte(word + "\n"))
}

func (h health) text() []byte {
	var b strings.Builder
	for _, p := range h.Checks {
		mark := map[string]string{stateOK: "+", stateDegraded: "~", stateFailed: "-"}[p.State]
		_, _ = fmt.Fprintf(&b, "[%s] %s: %s", mark, p.Name, p.State)
		if p.Detail != "" {
			b.WriteString(", " + p.Detail)
		}
		b.WriteByte('\n')
	}
	b.WriteString(h.Status + "\n")
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
