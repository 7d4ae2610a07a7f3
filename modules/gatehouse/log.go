package gatehouse

import (
	"context"
	"log/slog"
	"slices"
	"sync"
)

// logTarget is where a host's log goes: to the log of the newest configuration that uses it, which
// changes when a reload goes on with the host, and goes back if that reload is refused after all.
type logTarget struct {
	mu   sync.RWMutex
	open []*App // oldest first
}

func (l *logTarget) enter(a *App) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open = append(l.open, a)
}

// leave keeps the last one: a host that is being closed still has things to say.
func (l *logTarget) leave(a *App) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.open) > 1 {
		l.open = slices.DeleteFunc(l.open, func(other *App) bool { return other == a })
	}
}

func (l *logTarget) handler() slog.Handler {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.open[len(l.open)-1].log.Handler()
}

// logHandler passes records to the target of the moment. with is what was said by With and WithGroup.
type logHandler struct {
	target *logTarget
	with   []func(slog.Handler) slog.Handler
}

func (h logHandler) now() slog.Handler {
	to := h.target.handler()
	for _, with := range h.with {
		to = with(to)
	}
	return to
}

func (h logHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.target.handler().Enabled(ctx, level)
}

func (h logHandler) Handle(ctx context.Context, r slog.Record) error { return h.now().Handle(ctx, r) }

func (h logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.and(func(to slog.Handler) slog.Handler { return to.WithAttrs(attrs) })
}

func (h logHandler) WithGroup(name string) slog.Handler {
	return h.and(func(to slog.Handler) slog.Handler { return to.WithGroup(name) })
}

func (h logHandler) and(with func(slog.Handler) slog.Handler) slog.Handler {
	return logHandler{h.target, append(slices.Clip(h.with), with)}
}
