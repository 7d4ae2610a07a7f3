package jwtauth

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

// idp is a server of keys on loopback whose answers a test changes.
type idp struct {
	*httptest.Server
	hits   atomic.Int32
	answer atomic.Pointer[http.HandlerFunc]
}

func newIDP(t *testing.T, h http.HandlerFunc) *idp {
	i := new(idp)
	i.answer.Store(&h)
	i.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.hits.Add(1)
		(*i.answer.Load())(w, r)
	}))
	t.Cleanup(i.Close)
	return i
}

func (i *idp) answers(h http.HandlerFunc) { i.answer.Store(&h) }

func answering(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) }
}

func failing(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }

func edJWK(kid string) string {
	public, _, _ := ed25519.GenerateKey(rand.Reader)
	return fmt.Sprintf(`{"kty":"OKP","crv":"Ed25519","kid":%q,"x":%q}`, kid, base64.RawURLEncoding.EncodeToString(public))
}

func setOf(members ...string) string { return `{"keys":[` + strings.Join(members, ",") + `]}` }

// clock is the time of a test, moved by hand.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) pass(d time.Duration) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
	return c.t
}

func testRemote(t *testing.T, url string) (view, *clock) {
	c := &clock{t: time.Unix(1_800_000_000, 0)}
	return testView(t, place{url: url}, c), c
}

func testView(t *testing.T, p place, c *clock) view {
	r := newRemote(p)
	r.now = c.now
	t.Cleanup(func() { _ = r.Destruct() })
	return view{r, defaultStale, 0}
}

// settled waits for the end of a fetch in the background.
func settled(t *testing.T, r view) {
	t.Helper()
	r.mu.Lock()
	flight := r.flight
	r.mu.Unlock()
	if flight == nil {
		return
	}
	select {
	case <-flight:
	case <-time.After(10 * time.Second):
		t.Fatal("the fetch does not end")
	}
}

func TestRemoteFetchesOnFirstNeedAndOnce(t *testing.T) {
	release := make(chan struct{})
	i := newIDP(t, func(w http.ResponseWriter, _ *http.Request) {
		<-release
		_, _ = w.Write([]byte(setOf(edJWK("a"))))
	})
	r, c := testRemote(t, i.URL)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if set, err := r.load(t.Context(), c.now()); err != nil || len(set.keys) != 1 {
				t.Errorf("got %v (%v)", set, err)
			}
		})
	}
	close(release)
	wg.Wait()
	if got := i.hits.Load(); got != 1 {
		t.Errorf("got %d fetches, want 1", got)
	}
}

func TestRemoteDownThenUp(t *testing.T) {
	i := newIDP(t, failing)
	r, c := testRemote(t, i.URL)
	for range 5 {
		_, err := r.load(t.Context(), c.now())
		e, ok := errors.AsType[*problem.Error](err)
		if !ok || e.Code != problem.KeysUnavailable || e.RetryAfter < time.Second {
			t.Fatalf("got %v, want keys-unavailable with Retry-After", err)
		}
	}
	if got := i.hits.Load(); got != 1 {
		t.Errorf("got %d fetches in one moment, want 1", got)
	}
	i.answers(answering(setOf(edJWK("a"))))
	if set, err := r.load(t.Context(), c.pass(2*time.Second)); err != nil || len(set.keys) != 1 {
		t.Errorf("once it is up: got %v (%v)", set, err)
	}
}

func TestRemoteServesTheLastGoodSetWhileItFails(t *testing.T) {
	i := newIDP(t, answering(setOf(edJWK("a"))))
	r, c := testRemote(t, i.URL)
	first, err := r.load(t.Context(), c.now())
	if err != nil {
		t.Fatal(err)
	}
	for name, broken := range map[string]http.HandlerFunc{
		"500":           failing,
		"not-json":      answering("<html>"),
		"no-keys":       answering(`{"keys":[]}`),
		"unusable-keys": answering(setOf(`{"kty":"oct","k":"AAAA"}`)),
		"too-large":     answering(strings.Repeat(" ", maxJWKS) + setOf(edJWK("b"))),
		"other-host": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://localhost:1/", http.StatusFound)
		},
		"torn": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = w.Write([]byte(`{"keys":[`))
		},
	} {
		before := i.hits.Load()
		i.answers(broken)
		now := c.pass(refreshEvery + time.Second)
		if got := r.current(now); got != first {
			t.Errorf("%s: got another set while it is being fetched", name)
		}
		settled(t, r)
		if i.hits.Load() == before {
			t.Errorf("%s: it was not fetched again", name)
		}
		if got := r.current(now); got != first {
			t.Errorf("%s: got another set", name)
		}
	}
	if got := r.current(c.pass(defaultStale)); got != nil {
		t.Error("got the last good set after its time")
	}
	settled(t, r)
	if _, err = r.load(t.Context(), c.now()); err == nil {
		t.Error("got no error after its time")
	}
	i.answers(answering(setOf(edJWK("b"))))
	if set, err := r.load(t.Context(), c.pass(time.Hour)); err != nil || set == first {
		t.Errorf("once it is up: got %v (%v), want the new set", set, err)
	}
}

func TestRemoteKeepsTheSetThatDidNotChange(t *testing.T) {
	body := setOf(edJWK("a"))
	i := newIDP(t, answering(body))
	r, c := testRemote(t, i.URL)
	first, err := r.load(t.Context(), c.now())
	if err != nil {
		t.Fatal(err)
	}
	r.current(c.pass(refreshEvery))
	settled(t, r)
	if got := r.current(c.now()); got != first || i.hits.Load() != 2 {
		t.Errorf("got another set or %d fetches, want the same and 2", i.hits.Load())
	}
	i.answers(answering(setOf(edJWK("a"))))
	r.current(c.pass(refreshEvery))
	settled(t, r)
	if got := r.current(c.now()); got == first {
		t.Error("got the old set, want the new one")
	}
}

// TestUnknownKeysCauseFewFetches: a token of an unknown key is refused only after a fetch that lacks the key, and
// while none can be made, it is not known what the token is.
func TestUnknownKeysCauseFewFetches(t *testing.T) {
	i := newIDP(t, answering(setOf(edJWK("a"))))
	r, c := testRemote(t, i.URL)
	old, err := r.load(t.Context(), c.now())
	if err != nil {
		t.Fatal(err)
	}
	later := func(err error) bool {
		e, ok := errors.AsType[*problem.Error](err)
		return ok && e.Code == problem.KeysUnavailable && e.RetryAfter >= time.Second && e.RetryAfter <= refetchEvery
	}
	for n := range refetches {
		if got, err := r.newer(t.Context(), c.now(), old, unknownKid); got != old || err != nil {
			t.Errorf("fetch %d: got another set or %v", n, err)
		}
	}
	for range 20 {
		if got, err := r.newer(t.Context(), c.now(), old, unknownKid); got != old || !later(err) {
			t.Errorf("beyond the budget: got another set or %v", err)
		}
	}
	if got := i.hits.Load(); got != 1+refetches {
		t.Errorf("got %d fetches, want %d", got, 1+refetches)
	}

	// A rotation is seen as soon as there is a fetch again.
	i.answers(answering(setOf(edJWK("a"), edJWK("b"))))
	now := c.pass(refetchEvery)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if got, err := r.newer(t.Context(), now, old, unknownKid); got == old && !later(err) {
				t.Errorf("after the rotation: got the old set and %v", err)
			}
		})
	}
	wg.Wait()
	latest := r.current(c.now())
	if latest == old || i.hits.Load() != 2+refetches {
		t.Errorf("got the old set or %d fetches, want %d", i.hits.Load(), 2+refetches)
	}

	i.answers(failing)
	now = c.pass(10 * refetchEvery)
	for range 2 * refetches {
		if got, err := r.newer(t.Context(), now, latest, unknownKid); got != latest || !later(err) {
			t.Errorf("while it fails: got another set or %v", err)
		}
	}
	if got := i.hits.Load(); got != 2+2*refetches {
		t.Errorf("while it fails: got %d fetches, want %d", got, 2+2*refetches)
	}
}

// TestOtherSignaturesCauseFewerFetches, of a budget of their own.
func TestOtherSignaturesCauseFewerFetches(t *testing.T) {
	i := newIDP(t, answering(setOf(edJWK("a"))))
	r, c := testRemote(t, i.URL)
	old, err := r.load(t.Context(), c.now())
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		_, _ = r.newer(t.Context(), c.now(), old, otherSignature)
	}
	if got := i.hits.Load(); got != 2 {
		t.Errorf("got %d fetches, want 2", got)
	}
	i.answers(answering(setOf(edJWK("a")))) // the kid is the same, the key is not
	if got, err := r.newer(t.Context(), c.now(), old, unknownKid); got == old || err != nil {
		t.Errorf("an unknown kid: got the old set or %v", err)
	}
}

// TestRemovedKeysEnd: keys are no older than max_key_age, whatever Cache-Control says, unless their server fails.
func TestRemovedKeysEnd(t *testing.T) {
	forADay := func(body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Cache-Control", "max-age=86400")
			_, _ = io.WriteString(w, body)
		}
	}
	i := newIDP(t, forADay(setOf(edJWK("a"), edJWK("b"))))
	r, c := testRemote(t, i.URL)
	r.keyAge = 20 * time.Minute
	if set, err := r.load(t.Context(), c.now()); err != nil || len(set.keys) != 2 {
		t.Fatal(set, err)
	}
	i.answers(forADay(setOf(edJWK("b"))))
	if set, err := r.load(t.Context(), c.pass(10*time.Minute)); err != nil || len(set.keys) != 2 || i.hits.Load() != 1 {
		t.Errorf("half way: got %v (%v) after %d fetches", set, err, i.hits.Load())
	}
	// Nobody asked for a long time: the first one waits for the new set.
	if set, err := r.load(t.Context(), c.pass(15*time.Minute)); err != nil || len(set.keys) != 1 {
		t.Errorf("after max_key_age: got %v (%v), want the key that is left", set, err)
	}
	i.answers(failing)
	if set, err := r.load(t.Context(), c.pass(25*time.Minute)); err != nil || len(set.keys) != 1 {
		t.Errorf("while the server fails: got %v (%v), want the last good ones", set, err)
	}
	hits := i.hits.Load()
	if set, err := r.load(t.Context(), c.pass(time.Second)); err != nil || len(set.keys) != 1 || i.hits.Load() != hits {
		t.Errorf("a second later: got %v (%v) after %d more fetches", set, err, i.hits.Load()-hits)
	}
}

func TestRemoteDoesNotOutwaitTheClient(t *testing.T) {
	hang := make(chan struct{})
	i := newIDP(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-hang:
		case <-r.Context().Done():
		}
	})
	defer close(hang)
	r, c := testRemote(t, i.URL)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.load(ctx, c.now()); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the client's own end", err)
	}
}

// A reload may take the issuer out of the configuration while a client of the old one waits for its keys.
func TestRemoteDroppedUnderAClient(t *testing.T) {
	asked := make(chan struct{})
	i := newIDP(t, func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
	})
	r, c := testRemote(t, i.URL)
	go func() {
		<-asked
		_ = r.Destruct()
	}()
	if _, err := r.load(t.Context(), c.now()); problem.From(err).Code != problem.KeysUnavailable {
		t.Errorf("got %v, want keys-unavailable", err)
	}
}

func TestRemoteFollowsRedirectsOnItsHost(t *testing.T) {
	i := newIDP(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/keys" {
			http.Redirect(w, r, "/keys", http.StatusFound)
			return
		}
		_, _ = w.Write([]byte(setOf(edJWK("a"))))
	})
	r, c := testRemote(t, i.URL)
	if _, err := r.load(t.Context(), c.now()); err != nil {
		t.Error(err)
	}
}

func TestFreshness(t *testing.T) {
	for value, want := range map[string]time.Duration{
		"":                             refreshEvery,
		"max-age=600":                  10 * time.Minute,
		"public, MAX-AGE=3600":         time.Hour,
		"max-age=1":                    refreshLeast,
		"max-age=0, no-store":          refreshLeast,
		"max-age=999999":               refreshMost,
		"max-age=-1":                   refreshEvery,
		"max-age=99999999999999999999": refreshEvery,
		"max-age":                      refreshEvery,
		"s-maxage=3600":                refreshEvery,
	} {
		if got := freshness(http.Header{"Cache-Control": {value}}); got != want {
			t.Errorf("%q: got %s, want %s", value, got, want)
		}
	}
}

func TestCheckURL(t *testing.T) {
	for url, ok := range map[string]bool{
		"https://idp.example/jwks.json":      true,
		"http://127.0.0.1:8080/jwks.json":    true,
		"http://localhost/jwks.json":         true,
		"http://[::1]:80/jwks.json":          true,
		"http://idp.example/jwks.json":       false,
		"http://127.0.0.1.evil.example/":     false,
		"http://localhost.evil.example/":     false,
		"https://user:password@idp.example/": false,
		"ftp://idp.example/":                 false,
		"ftp://user:password@idp.example/":   false,
		"file:///etc/keys.json":              false,
		"/etc/keys.json":                     false,
		"https://":                           false,
		"://":                                false,
	} {
		if err := checkURL("jwks", url, false); (err == nil) != ok || err != nil && strings.Contains(err.Error(), "password@") {
			t.Errorf("%s: got %v, want ok %v", url, err, ok)
		}
	}
}
