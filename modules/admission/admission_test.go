package admission_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	_ "github.com/gatehouse-proxy/gatehouse/modules/admission"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
)

func TestGolden(t *testing.T) { modtest.Golden(t, "testdata") }

// slow is an app in the gateway: it reads the body and takes as long as X-Takes says, while the client waits.
type slow struct{}

func init() {
	caddy.RegisterModule(new(slow))
	httpcaddyfile.RegisterHandlerDirective("test_slow", func(httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) { return new(slow), nil })
	httpcaddyfile.RegisterDirectiveOrder("test_slow", httpcaddyfile.Before, "respond")
}

func (*slow) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.test_slow", New: func() caddy.Module { return new(slow) }}
}

func (*slow) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	takes, _ := time.ParseDuration(r.Header.Get("X-Takes"))
	_, _ = io.Copy(io.Discard, r.Body)
	select {
	case <-time.After(takes):
	case <-r.Context().Done():
		return r.Context().Err()
	}
	switch r.Header.Get("X-Answer") {
	case "panic":
		panic(http.ErrAbortHandler)
	case "error":
		return caddyhttp.Error(http.StatusBadGateway, errors.New("down"))
	}
	_, err := io.WriteString(w, "done")
	return err
}

func site(options string) string {
	return ":80 {\n\tadmission {\n\t\t" + strings.ReplaceAll(options, "; ", "\n\t\t") + "\n\t}\n\ttest_slow\n}\n"
}

const one = "zone one; max_in_flight 1; adaptive off; cpu off; scheduler off"

// send is Get in a goroutine of its own.
func send(g *modtest.Gateway, r *http.Request) <-chan *http.Response {
	c := make(chan *http.Response, 1)
	go func() { c <- g.Do(r) }()
	return c
}

func request(takes string, headers ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("X-Takes", takes)
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	return r
}

func TestAloneOnItsLine(t *testing.T) {
	g := modtest.Start(t, ":80 {\n\tadmission\n\trespond ok\n}\n")
	for range 200 {
		if resp := g.Get("/"); resp.StatusCode != http.StatusOK {
			t.Fatalf("got %d", resp.StatusCode)
		}
	}
}

// unread is a body that must not be read.
type unread struct{ t *testing.T }

func (u unread) Read([]byte) (int, error) {
	u.t.Error("the body of a shed request was read")
	return 0, io.EOF
}

func TestShedIsAProblem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := modtest.Start(t, site(one+"; queue off"))
		first := send(g, request("1s"))
		synctest.Wait()
		after := map[string]int{}
		for range 100 {
			r := httptest.NewRequest(http.MethodPost, "/", unread{t})
			resp := g.Do(r)
			var doc map[string]any
			if err := json.NewDecoder(resp.Body).Decode(&doc); err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != http.StatusServiceUnavailable || doc["type"] != "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity" ||
				resp.Header.Get("Cache-Control") != "no-store" {
				t.Fatalf("got %d %v %v", resp.StatusCode, resp.Header, doc)
			}
			after[resp.Header.Get("Retry-After")]++
		}
		if len(after) != 3 || after["1"]*after["2"]*after["3"] == 0 {
			t.Errorf("got Retry-After %v, want 1, 2 and 3 mixed", after)
		}
		for _, path := range []string{"/livez", "/readyz", "/startupz"} {
			if resp := g.Get(path); resp.StatusCode != http.StatusOK {
				t.Errorf("%s: got %d", path, resp.StatusCode)
			}
		}
		if resp := <-first; resp.StatusCode != http.StatusOK {
			t.Errorf("the one in flight: got %d", resp.StatusCode)
		}
		if resp := g.Do(request("1s")); resp.StatusCode != http.StatusOK {
			t.Errorf("the next: got %d", resp.StatusCode)
		}
	})
}

func TestWaitIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := modtest.Start(t, site(one+"; queue 1 wait 300ms"))
		begin := time.Now()
		first := send(g, request("1s"))
		synctest.Wait()
		if resp := g.Do(request("1s")); resp.StatusCode != http.StatusServiceUnavailable || time.Since(begin) != 300*time.Millisecond {
			t.Errorf("got %d after %v, want 503 after 300ms", resp.StatusCode, time.Since(begin))
		}
		time.Sleep(500 * time.Millisecond) //nolint:forbidigo // synthetic time
		if resp := g.Do(request("1s")); resp.StatusCode != http.StatusOK || time.Since(begin) != 2*time.Second {
			t.Errorf("got %d after %v, want 200 after 2s", resp.StatusCode, time.Since(begin))
		}
		<-first
	})
}

func TestClientThatLeavesGivesUpItsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := modtest.Start(t, site(one+"; queue 1 wait 2s"))
		ctx, leave := context.WithCancel(t.Context())
		first := send(g, request("1s"))
		synctest.Wait()
		waiting := send(g, request("1s").WithContext(ctx))
		synctest.Wait()
		leave()
		if resp := <-waiting; resp.StatusCode != 499 {
			t.Errorf("got %d, want 499", resp.StatusCode)
		}
		next := send(g, request("1s")) // its place in the queue is free
		<-first
		if resp := <-next; resp.StatusCode != http.StatusOK {
			t.Errorf("got %d, want 200", resp.StatusCode)
		}
	})
}

func TestPlaceComesBackFromWhateverHappens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := modtest.Start(t, site(one+"; queue off"))
		ctx, leave := context.WithCancel(t.Context())
		gone := send(g, request("1s").WithContext(ctx))
		synctest.Wait()
		leave()
		<-gone
		if resp := g.Do(request("1s", "X-Answer", "error")); resp.StatusCode != http.StatusBadGateway {
			t.Errorf("an error: got %d, want 502", resp.StatusCode)
		}
		func() {
			defer func() { _ = recover() }()
			g.Do(request("1s", "X-Answer", "panic"))
		}()
		if resp := g.Do(request("1s")); resp.StatusCode != http.StatusOK {
			t.Errorf("got %d, want 200", resp.StatusCode)
		}
	})
}

func TestReloadKeepsPlacesAndQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old := modtest.Start(t, site(one+"; queue 1 wait 2s"))
		first := send(old, request("1s"))
		synctest.Wait()
		waiting := send(old, request("1s"))
		synctest.Wait()
		if _, err := modtest.TryStart(t, site(one+"; queue 5")+":81 {\n\tadmission {\n\t\tzone one\n\t}\n}\n"); err == nil || !strings.Contains(err.Error(), "the zone one has other numbers") {
			t.Errorf("one zone with two numbers: got %v", err)
		}
		next := modtest.Start(t, site(one+"; queue 1 wait 2s"))
		if resp := next.Do(request("1s")); resp.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("the new configuration knows of none in flight: got %d, want 503", resp.StatusCode)
		}
		old.Stop()
		for _, c := range []<-chan *http.Response{first, waiting} {
			if resp := <-c; resp.StatusCode != http.StatusOK {
				t.Errorf("a request from before the reload: got %d, want 200", resp.StatusCode)
			}
		}
		if resp := next.Do(request("1s")); resp.StatusCode != http.StatusOK {
			t.Errorf("got %d, want 200", resp.StatusCode)
		}
	})
}

// TestClientsCannotRaiseThemselves: without a rule that asks for it, nothing that a client sends counts.
func TestClientsCannotRaiseThemselves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := modtest.Start(t, site("zone attack; max_in_flight 10; adaptive off; queue off; priority high claim plan gold; priority low header X-Purpose prefetch"))
		var all []<-chan *http.Response
		for range 9 {
			all = append(all, send(g, request("1s")))
			synctest.Wait()
		}
		for _, h := range [][]string{
			{"X-Priority", "high"}, {"Priority", "u=0"}, {"Plan", "gold"}, {"Http.auth.user.plan", "gold"}, {"X-Purpose", "{http.auth.user.plan}"},
			{"X-Purpose", strings.Repeat("a", 1<<16)}, {"X-Purpose", "prefetch\x00"}, {"Authorization", "Bearer gold"},
		} {
			if resp := g.Do(request("1s", h...)); resp.StatusCode != http.StatusServiceUnavailable {
				t.Errorf("%.40q: got %d, want 503", h, resp.StatusCode)
			}
		}
		for _, c := range all {
			<-c
		}
		ctx := g.Context()
		families, err := ctx.GetMetricsRegistry().Gather()
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, f := range families {
			if !strings.HasPrefix(f.GetName(), "gatehouse_admission") {
				continue
			}
			names = append(names, f.GetName())
			for _, m := range f.GetMetric() {
				for _, l := range m.GetLabel() {
					if !slices.Contains([]string{"attack", "default", "high", "normal", "low", "full", "wait", "codel", "cpu", "cap", "left"}, l.GetValue()) {
						t.Errorf("%s has the label %s", f.GetName(), l)
					}
				}
				if f.GetName() == "gatehouse_admission_admitted_total" && strings.Contains(fmt.Sprint(m.GetLabel()), `"normal"`) && m.GetCounter().GetValue() != 9 {
					t.Errorf("got %v admitted, want 9", m.GetCounter().GetValue())
				}
			}
		}
		if len(names) != 5 { // no limit, since adaptive is off
			t.Errorf("got the metrics %v", names)
		}
	})
}

// TestUpgradeGivesItsPlaceBack goes through the real proxy and sockets.
func TestUpgradeGivesItsPlaceBack(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			return
		}
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = conn.Close() }()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		line, _ := rw.ReadString('\n')
		_, _ = io.WriteString(conn, line)
	}))
	defer upstream.Close()
	g := modtest.Start(t, ":80 {\n\tadmission {\n\t\tmax_in_flight 1\n\t\tadaptive off\n\t\tqueue off\n\t}\n\treverse_proxy "+upstream.Listener.Addr().String()+"\n}\n")
	gateway := httptest.NewServer(g)
	defer gateway.Close()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, gateway.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "websocket")
	resp, err := gateway.Client().Do(r)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("got %v, %v", resp, err)
	}
	conn := resp.Body.(io.ReadWriteCloser)
	for range 3 {
		if resp := g.Get("/"); resp.StatusCode != http.StatusOK {
			t.Errorf("beside an upgraded connection: got %d, want 200", resp.StatusCode)
		}
	}
	_, _ = io.WriteString(conn, "hello\n")
	if got, _ := io.ReadAll(conn); string(got) != "hello\n" {
		t.Errorf("through the upgraded connection: got %q", got)
	}
	_ = conn.Close()
}
