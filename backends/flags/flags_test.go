package flags_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/backends/flags"
	"github.com/gatehouse-proxy/gatehouse/backends/flags/flagstest"
	"github.com/gatehouse-proxy/gatehouse/integration/await"
	"github.com/gatehouse-proxy/gatehouse/integration/pgtest"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

func openHost(t testing.TB, dir, url string) (*service.Host, *flags.Service) {
	t.Helper()
	h, err := service.NewHost(context.Background(), service.Settings{DataDir: dir, Database: url}, nil, func(string) (service.Opener, error) { return flags.Config{}, nil })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	if err = h.Open(context.Background(), "flags"); err != nil {
		t.Fatal(err)
	}
	return h, h.Service("flags").(*flags.Service)
}

func do(t testing.TB, s *flags.Service, method, target, body string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	s.ServeHTTP(w, newRequest(context.Background(), method, target, strings.NewReader(body)))
	return w
}

func TestExamine(t *testing.T) { pgtest.Each(t, testExamine) }

func testExamine(t *testing.T, url string) {
	_, s := openHost(t, t.TempDir(), url)
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	flagstest.Examine(t, srv.URL, srv.Client())
}

func TestRestartKeepsFlagsAndVersions(t *testing.T) { pgtest.Each(t, testRestartKeepsFlagsAndVersions) }

func testRestartKeepsFlagsAndVersions(t *testing.T, url string) {
	dir := t.TempDir()
	h, s := openHost(t, dir, url)
	do(t, s, "PUT", "/flags/kept", `{"enabled":true,"percentage":100}`)
	do(t, s, "PUT", "/flags/kept", `{"enabled":true,"allowList":["ann"]}`)
	do(t, s, "PUT", "/flags/gone", `{"enabled":true,"percentage":100}`)
	do(t, s, "DELETE", "/flags/gone", "")
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	_, s = openHost(t, dir, url)
	if !s.On("kept", "ann") || s.On("kept", "bob") || s.On("gone", "ann") {
		t.Errorf("got on %v, %v, %v, want true, false, false", s.On("kept", "ann"), s.On("kept", "bob"), s.On("gone", "ann"))
	}
	if got := do(t, s, "GET", "/flags/kept", "").Header().Get("ETag"); got != `"2"` {
		t.Errorf("got version %s after the restart, want 2", got)
	}
	if w := do(t, s, "PUT", "/flags/gone", `{"enabled":true}`); w.Code != http.StatusCreated || w.Header().Get("ETag") != `"3"` {
		t.Errorf("a flag that comes back: got %d with version %s, want 201 with 3", w.Code, w.Header().Get("ETag"))
	}
}

func TestStoredUnderItsKey(t *testing.T) { pgtest.Each(t, testStoredUnderItsKey) }

func testStoredUnderItsKey(t *testing.T, url string) {
	h, s := openHost(t, t.TempDir(), url)
	do(t, s, "PUT", "/flags/new-feed", `{"percentage":25,"enabled":true,"denyList":["bob"]}`)
	var value string
	if err := h.DB.Read.QueryRow(`SELECT value FROM flags_flags WHERE key = 'flag:new-feed'`).Scan(&value); err != nil {
		t.Fatal(err)
	}
	if want := `{"enabled":true,"percentage":25,"allowList":[],"denyList":["bob"]}`; value != want {
		t.Errorf("got %s, want %s", value, want)
	}
}

func TestServicesOfOneProcessAgree(t *testing.T) { pgtest.Each(t, testServicesOfOneProcessAgree) }

func testServicesOfOneProcessAgree(t *testing.T, url string) {
	dir := t.TempDir()
	_, before := openHost(t, dir, url)
	_, after := openHost(t, dir, url)
	do(t, before, "PUT", "/flags/f", `{"enabled":true,"percentage":100}`)
	if !after.On("f", "ann") {
		t.Error("a change through the service of the old configuration is not seen by the new one")
	}
	do(t, after, "PUT", "/flags/f", `{"enabled":false}`)
	if before.On("f", "ann") {
		t.Error("a change through the service of the new configuration is not seen by the old one")
	}
}

func TestConcurrentCreateHasOneWinner(t *testing.T) { pgtest.Each(t, testConcurrentCreateHasOneWinner) }

func testConcurrentCreateHasOneWinner(t *testing.T, url string) {
	_, s := openHost(t, t.TempDir(), url)
	var wg sync.WaitGroup
	codes := make([]int, 20)
	for i := range codes {
		wg.Go(func() {
			r := newRequest(context.Background(), "PUT", "/flags/once", strings.NewReader(`{"enabled":true}`))
			r.Header.Set("If-None-Match", "*")
			w := httptest.NewRecorder()
			s.ServeHTTP(w, r)
			codes[i] = w.Code
		})
	}
	wg.Wait()
	count := map[int]int{}
	for _, c := range codes {
		count[c]++
	}
	if count[http.StatusCreated] != 1 || count[http.StatusPreconditionFailed] != len(codes)-1 {
		t.Errorf("got %v, want one 201 and %d 412", count, len(codes)-1)
	}
}

func TestChangeSurvivesAClientThatLeft(t *testing.T) {
	pgtest.Each(t, testChangeSurvivesAClientThatLeft)
}

func testChangeSurvivesAClientThatLeft(t *testing.T, url string) {
	_, s := openHost(t, t.TempDir(), url)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	r := newRequest(ctx, "PUT", "/flags/f", strings.NewReader(`{"enabled":true,"percentage":100}`))
	s.ServeHTTP(httptest.NewRecorder(), r)
	if !s.On("f", "ann") {
		t.Error("the change is lost")
	}
}

func TestFailedWriteChangesNothing(t *testing.T) { pgtest.Each(t, testFailedWriteChangesNothing) }

func testFailedWriteChangesNothing(t *testing.T, url string) {
	h, s := openHost(t, t.TempDir(), url)
	do(t, s, "PUT", "/flags/f", `{"enabled":true,"percentage":100}`)
	if _, err := h.DB.Write.Exec(`ALTER TABLE flags_flags RENAME TO flags_away`); err != nil {
		t.Fatal(err)
	}
	if w := do(t, s, "PUT", "/flags/f", `{"enabled":false}`); w.Code != http.StatusInternalServerError {
		t.Errorf("got %d from a store that is broken, want 500", w.Code)
	}
	if !s.On("f", "ann") {
		t.Error("a change that was not committed is in force")
	}
	if err := s.Check(t.Context()); err == nil {
		t.Error("a store that is broken is said to be healthy")
	}
}

func TestOnDoesNotAllocate(t *testing.T) {
	_, s := openHost(t, t.TempDir(), "")
	do(t, s, "PUT", "/flags/new-checkout", `{"enabled":true,"percentage":50,"allowList":["ann"],"denyList":["bob"]}`)
	for _, user := range []string{"user-123", "ann", "bob", "", strings.Repeat("u", 200)} {
		if n := testing.AllocsPerRun(100, func() { s.On("new-checkout", user) }); n != 0 {
			t.Errorf("user %q: %v allocations, want none", user, n)
		}
	}
}

func BenchmarkOn(b *testing.B) {
	_, s := openHost(b, b.TempDir(), "")
	for i := range 100 {
		do(b, s, "PUT", fmt.Sprint("/flags/f", i), `{"enabled":true,"percentage":50,"allowList":["ann"],"denyList":["bob"]}`)
	}
	b.ReportAllocs()
	for b.Loop() {
		s.On("f42", "0190f6f2-5b4e-7c3a-9d2e-8a1b2c3d4e5f")
	}
}

func TestInstancesOnOneDatabaseFollow(t *testing.T) {
	s := pgtest.Start(t)
	_, one := openHost(t, t.TempDir(), s.URL)
	_, two := openHost(t, t.TempDir(), s.URL)
	follows := func(what string, on bool) {
		t.Helper()
		await.For(t, what, func() error {
			if two.On("f", "ann") != on {
				return fmt.Errorf("f is on: %v", !on)
			}
			return nil
		})
	}
	do(t, one, "PUT", "/flags/f", `{"enabled":true,"percentage":100}`)
	follows("the other instance to see the new flag", true)
	if w := do(t, two, "PUT", "/flags/f", `{"enabled":false}`); w.Header().Get("ETag") != `"2"` {
		t.Errorf("the second change has version %s, want 2", w.Header().Get("ETag"))
	}
	do(t, one, "PUT", "/flags/f", `{"enabled":true,"percentage":100}`)
	follows("the other instance to see a change after its own", true)
	s.Kill()
	if w := do(t, two, "PUT", "/flags/f", `{"enabled":false}`); w.Code != http.StatusServiceUnavailable {
		t.Errorf("a change without the database: %d, want 503", w.Code)
	}
	if !two.On("f", "ann") {
		t.Error("without the database the flag is not what it was")
	}
	s.Restart()
	await.For(t, "the database to take the deletion", func() error { // its connections may still be those of before
		if w := do(t, one, "DELETE", "/flags/f", ""); w.Code != http.StatusNoContent && w.Code != http.StatusNotFound {
			return fmt.Errorf("got %d", w.Code)
		}
		return nil
	})
	follows("the other instance to see the deletion after the database was away", false)
}

// TestOneWinnerOverInstances sets the same version from two instances that cannot see each other.
func TestOneWinnerOverInstances(t *testing.T) {
	s := pgtest.Start(t, pgtest.Fast)
	_, one := openHost(t, t.TempDir(), s.URL)
	_, two := openHost(t, t.TempDir(), s.URL)
	do(t, one, "PUT", "/flags/f", `{"enabled":true}`)
	for version := 1; version <= 10; version++ {
		var wg sync.WaitGroup
		codes := make([]int, 8)
		for i := range codes {
			wg.Go(func() {
				r := newRequest(context.Background(), "PUT", "/flags/f", strings.NewReader(`{"enabled":true}`))
				r.Header.Set("If-Match", fmt.Sprintf(`"%d"`, version))
				w := httptest.NewRecorder()
				[]*flags.Service{one, two}[i%2].ServeHTTP(w, r)
				codes[i] = w.Code
			})
		}
		wg.Wait()
		won := 0
		for _, c := range codes {
			if c == http.StatusOK {
				won++
			} else if c != http.StatusPreconditionFailed {
				t.Errorf("got %d", c)
			}
		}
		if won != 1 {
			t.Fatalf("of version %d there were %d changes, want 1", version, won)
		}
	}
}
