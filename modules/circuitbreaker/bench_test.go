package circuitbreaker

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func BenchmarkBreaker(b *testing.B) {
	c := NewBreaker(standard, func() float64 { return 0 })
	b.ReportAllocs()
	for b.Loop() {
		ticket, _ := c.Admit(time.Now())
		c.Report(time.Now(), ticket, Success)
	}
}

// BenchmarkClosed is what the directive adds to a request while the circuit is closed. The first run is
// a bare call of the next handler.
func BenchmarkClosed(b *testing.B) {
	next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
		w.WriteHeader(http.StatusOK)
		return nil
	})
	rules := numbers{rules: standard}
	h := &Handler{Circuit: Circuit{Zone: "bench", zone: newZone("bench", rules), numbers: rules}}
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	for name, handler := range map[string]func(http.ResponseWriter) error{
		"without": func(w http.ResponseWriter) error { return next.ServeHTTP(w, r) },
		"with":    func(w http.ResponseWriter) error { return h.ServeHTTP(w, r, next) },
	} {
		b.Run(name, func(b *testing.B) {
			w := httptest.NewRecorder()
			b.ReportAllocs()
			for b.Loop() {
				_ = handler(w)
			}
		})
	}
}
