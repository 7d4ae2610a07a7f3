package integration

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"
)

// healthLimit bounds the wait of a healthy job; unhindered it starts within 5 s.
const healthLimit = 15 * time.Second

// oneApp is an app with a path that fails, one that takes long, and one that is well.
type oneApp struct {
	*httptest.Server
	release chan struct{}

	mu   sync.Mutex
	seen map[string]int
}

func newOneApp(t testing.TB) *oneApp {
	t.Helper()
	app := &oneApp{release: make(chan struct{}), seen: map[string]int{}}
	app.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		app.mu.Lock()
		app.seen[r.URL.Path]++
		app.mu.Unlock()
		switch r.URL.Path {
		case "/bad":
			w.WriteHeader(http.StatusInternalServerError)
		case "/switches": // as those do that speak another protocol
			c, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
			silence(c)
			_ = c.Close()
		case "/long":
			select {
			case <-app.release:
			case <-r.Context().Done():
			}
		}
	}))
	t.Cleanup(func() {
		close(app.release)
		app.Close()
	})
	return app
}

func (a *oneApp) saw(path string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.seen[path]
}

// TestPoisonBesideHealth: ten jobs that the app cannot take hold up no job of another queue to the same app,
// and end by themselves.
func TestPoisonBesideHealth(t *testing.T) {
	for _, path := range []string{"/bad", "/switches"} {
		t.Run(path[1:], func(t *testing.T) {
			t.Parallel()
			app := newOneApp(t)
			g := newSending(t, time.Minute, fmt.Sprintf("queue a {\n target %[1]s%[2]s\n attempts 2\n}\nqueue b {\n target %[1]s/ok\n}\n", app.URL, path))
			var poison []string
			for range 10 {
				poison = append(poison, g.post(t, "/jobs", `{"queue":"a","payload":1}`, "id"))
			}
			eventually(t, healthLimit, func() error { // the breaker of a has tripped
				if n := app.saw(path); n < 5 {
					return fmt.Errorf("%d pushes", n)
				}
				return nil
			})
			for range 5 {
				if j := g.ended(t, g.post(t, "/jobs", `{"queue":"b","payload":1}`, "id"), healthLimit); j.State != "completed" || j.Attempt != 1 {
					t.Errorf("the healthy job is %+v", j)
				}
			}
			for _, id := range poison {
				if j := g.ended(t, id, 5*time.Minute); j.State != "dead" || j.Attempt != 2 {
					t.Errorf("the job %s is %+v, want a dead letter after two attempts", id, j)
				}
			}
		})
	}
}

// TestOneLongPush: what fails beside a long push is tried again, whatever the breaker holds back.
func TestOneLongPush(t *testing.T) {
	for _, scope := range []string{"path", "queue", "origin"} {
		t.Run(scope, func(t *testing.T) {
			t.Parallel()
			app := newOneApp(t)
			g := newSending(t, time.Minute, fmt.Sprintf("queue q {\n target %s/ok\n timeout 5m\n breaker {\n  scope %s\n }\n}\n", app.URL, scope))
			push := func(path string) (id string) {
				return g.post(t, "/jobs", fmt.Sprintf(`{"queue":"q","payload":1,"target":"%s%s"}`, app.URL, path), "id")
			}
			push("/long")
			eventually(t, healthLimit, func() error {
				if app.saw("/long") == 0 {
					return fmt.Errorf("the long push has not begun")
				}
				return nil
			})
			for range 6 {
				push("/bad")
			}
			eventually(t, healthLimit, func() error {
				if n := app.saw("/bad"); n < 5 {
					return fmt.Errorf("%d pushes failed", n)
				}
				return nil
			})
			if j := g.ended(t, push("/ok"), healthLimit); j.State != "completed" {
				t.Errorf("the healthy job is %+v", j)
			}
			if n := app.saw("/long"); n != 1 {
				t.Errorf("the long push was made %d times", n)
			}
		})
	}
}
