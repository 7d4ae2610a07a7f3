package gatehouse

import (
	"context"
	"net/http"
	"slices"

	"github.com/gatehouse-proxy/gatehouse/internal/service"
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

// health asks all parts for their state, the backends first.
func (a *App) health(ctx context.Context) service.Health {
	all := service.Health{Status: service.OK, Checks: []service.Part{}}
	if host := a.host.Load(); host != nil {
		all = host.Health(ctx)
	}
	a.mu.Lock()
	reports := slices.Clone(a.reports)
	a.mu.Unlock()
	for _, r := range reports {
		text, ok := r.detail()
		p := service.Part{Name: r.name, State: service.OK, Detail: text}
		if !ok {
			p.State = service.IsDegraded
		}
		all.Add(p)
	}
	return all
}

// unready is the health of a gateway that has no configuration at work, or that is about to end.
func unready(why string) service.Health { return service.Unready("gatehouse", why) }

// writeLine answers 200 with one word.
func writeLine(w http.ResponseWriter, word string) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte(word + "\n"))
}
