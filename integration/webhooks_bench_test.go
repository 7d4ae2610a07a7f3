package integration

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// BenchmarkWebhooksBesideAHangingSink measures how fast 500 webhooks are delivered to one endpoint while those
// to another one hang, as a ratio to the same without them.
func BenchmarkWebhooksBesideAHangingSink(b *testing.B) {
	const events = 500
	rate := func(hanging bool) float64 {
		s := newScripted(b)
		e := &example{dir: b.TempDir(), admin: "127.0.0.1:" + freePort(b)}
		port := freePort(b)
		e.base, e.config = "http://127.0.0.1:"+port, filepath.Join(e.dir, "Caddyfile")
		if err := os.WriteFile(e.config, []byte(s.towards(e, port, "1m")), 0o600); err != nil {
			b.Fatal(err)
		}
		defer e.run(b).kill()
		for _, name := range []string{"good", "silent"} {
			e.ask(b, http.MethodPost, "/endpoints", `{"url":"http://`+s.addr+`/hooks/`+name+`","types":["t.`+name+`"]}`, http.StatusCreated)
		}
		if hanging {
			for range 50 {
				e.ask(b, http.MethodPost, "/events", `{"type":"t.silent","payload":1}`, http.StatusAccepted)
			}
			eventually(b, patience, func() error {
				if len(s.requests("/hooks/silent")) == 0 {
					return errors.New("nothing hangs yet")
				}
				return nil
			})
		}
		began := time.Now()
		for range events {
			e.ask(b, http.MethodPost, "/events", `{"type":"t.good","payload":1}`, http.StatusAccepted)
		}
		eventually(b, 4*patience, func() error {
			if n := len(s.requests("/hooks/good")); n < events {
				return fmt.Errorf("%d of %d are delivered", n, events)
			}
			return nil
		})
		return events / time.Since(began).Seconds()
	}
	for range 3 {
		alone, beside := rate(false), rate(true)
		b.Logf("alone %.0f/s, beside a hanging sink %.0f/s", alone, beside)
		b.ReportMetric(beside/alone, "of-alone")
	}
}
