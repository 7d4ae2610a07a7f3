package traffic

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/google/go-cmp/cmp"
)

// request is one as Caddy hands it to its handlers: with a place for variables.
func request(method, target string) *http.Request {
	r := httptest.NewRequest(method, target, nil)
	return r.WithContext(context.WithValue(r.Context(), caddyhttp.VarsCtxKey, map[string]any{}))
}

func TestRecording(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := Start()
		serve := func(method, target string, took time.Duration) {
			done := Track(request(method, target))
			time.Sleep(took) //nolint:forbidigo // synthetic time
			done()
		}
		serve(http.MethodGet, "http://a.example/orders/17", time.Second)
		serve(http.MethodGet, "http://A.example:8080/orders/18/items", 2*time.Second)
		serve(http.MethodPost, "http://a.example/orders", 5*time.Second)
		hanging := Track(request(http.MethodGet, "http://b.example/"))
		time.Sleep(4 * time.Second) //nolint:forbidigo // synthetic time
		want := []Route{
			{Name: "POST a.example /orders", Requests: 1, Total: 5 * time.Second},
			{Name: "GET b.example /", Requests: 1, Unfinished: 1, Total: 4 * time.Second},
			{Name: "GET a.example /orders/:id", Requests: 2, Total: 3 * time.Second},
		}
		got := rec.Stop()
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		hanging() // after the end: of no effect
	})
}

type otherKey struct{}

func TestCountedOnce(t *testing.T) {
	rec := Start()
	r := request(http.MethodGet, "/x")
	outer := Track(r)
	inner := Track(r.WithContext(context.WithValue(r.Context(), otherKey{}, 1)))
	if outer == nil || inner != nil {
		t.Fatalf("outer tracks: %v, inner tracks: %v; want the outer alone", outer != nil, inner != nil)
	}
	outer()
	outer()
	if got := rec.Stop(); len(got) != 1 || got[0].Requests != 1 {
		t.Errorf("got %+v, want one request", got)
	}
	second := Start()
	if done := Track(r); done == nil {
		t.Error("a later recording does not see a request of an earlier one")
	}
	second.Stop()
}

func TestOneAtATime(t *testing.T) {
	if Track(request(http.MethodGet, "/")) != nil {
		t.Error("tracked without a recording")
	}
	rec := Start()
	if second := Start(); second != nil || second.Stop() != nil {
		t.Error("two recordings at once")
	}
	rec.Stop()
	if again := Start(); again == nil {
		t.Error("no recording after the end of the first")
	} else {
		again.Stop()
	}
}

func TestFloodOfPathsKeepsTheHeavyRoute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := Start()
		for i := range 5 * maxRoutes {
			if i%100 == 0 {
				done := Track(request(http.MethodGet, "http://a/heavy"))
				time.Sleep(time.Second) //nolint:forbidigo // synthetic time
				done()
			}
			Track(request(http.MethodGet, fmt.Sprintf("http://a/made-up-%d-x", i)))()
		}
		got := rec.Stop()
		if len(got) > maxRoutes+1 {
			t.Errorf("got %d rows, want at most %d", len(got), maxRoutes+1)
		}
		if got[0].Name != "GET a /heavy" || got[0].Requests != 5*maxRoutes/100 {
			t.Errorf("the first row is %+v, want the heavy route with all of its requests", got[0])
		}
		total := 0
		for _, route := range got {
			total += route.Requests
		}
		if want := 5*maxRoutes + 5*maxRoutes/100; total != want {
			t.Errorf("got %d requests in all rows, want %d", total, want)
		}
	})
}

func TestConcurrentUse(t *testing.T) {
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if done := Track(request(http.MethodGet, "/a")); done != nil {
					done()
				}
			}
		})
	}
	for range 20 {
		rec := Start()
		rec.Stop()
	}
	close(stop)
	wg.Wait()
}

func TestRouteNames(t *testing.T) {
	for target, want := range map[string]string{
		"http://a/":         "GET a /",
		"http://a/x/y/z":    "GET a /x/y",
		"http://a//x":       "GET a /x",
		"http://a/x/":       "GET a /x",
		"http://a/x//y":     "GET a /x",
		"http://a/users/42": "GET a /users/:id",
		"http://a/42/x":     "GET a /:id/x",
		"http://a/v1/users": "GET a /v1/users",
		"http://a/f/0b1c6f3e-8d0a-4a57-9a0e-1c2d3e4f": "GET a /f/:id",
		"http://a/f/deadbeef0123":                     "GET a /f/:id",
		"http://a/f/facade":                           "GET a /f/facade",
		"http://a/f/ab12":                             "GET a /f/ab12",
		"http://a/t/eyJhbGciOiJIUzI1NiJ9.e30.x":       "GET a /t/:id",
		"http://a/x%0a%1b%20y/%e2%80%ae":              "GET a /x???y/?",
		"http://[::1]:80/x":                           "GET ::1 /x",
		"http://a/b%c3%bccher":                        "GET a /bücher",
	} {
		t.Run(target, func(t *testing.T) {
			if got := routeOf(request(http.MethodGet, target)); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

func FuzzRouteOf(f *testing.F) {
	f.Add("GET", "a.example:80", "/users/42")
	f.Add("", "", "")
	f.Add("\x00", "[::1", "//\xff/ \n")
	f.Fuzz(func(t *testing.T, method, host, path string) {
		r := request(http.MethodGet, "/")
		r.Method, r.Host, r.URL.Path = method, host, path
		got := routeOf(r)
		if len(got) > maxMethod+maxHost+segments*(maxSegment+1)+2 {
			t.Errorf("%d bytes: %q", len(got), got)
		}
		if strings.Count(got, " ") != 2 || strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("got %q", got)
		}
	})
}

func BenchmarkTrack(b *testing.B) {
	r := request(http.MethodGet, "http://a.example/orders/17")
	b.Run("off", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_ = Track(r)
		}
	})
	b.Run("on", func(b *testing.B) {
		rec := Start()
		defer rec.Stop()
		b.ReportAllocs()
		for b.Loop() {
			caddyhttp.SetVar(r.Context(), tracked, nil)
			Track(r)()
		}
	})
}

func TestOffAllocatesNothing(t *testing.T) {
	r := request(http.MethodGet, "/")
	if got := testing.AllocsPerRun(100, func() { _ = Track(r) }); got != 0 {
		t.Errorf("got %v allocations, want none", got)
	}
}
