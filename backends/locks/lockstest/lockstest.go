// Package lockstest is the examiner of the backend locks: it judges any server of its HTTP API by
// HTTP alone.
package lockstest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// patience bounds every wait of the examiner.
const patience = 20 * time.Second

// exam is one run of the examiner.
type exam struct {
	base   string
	all    []string // base, and other instances over the same store
	client *http.Client
	run    string // makes the names of this run its own
}

// Examine judges the API at base, a URL without a slash at its end, and that of other instances that
// share its locks. It uses names of its own, whose locks are released or expire.
func Examine(t *testing.T, base string, client *http.Client, others ...string) {
	e := &exam{base: strings.TrimSuffix(base, "/"), client: client, run: fmt.Sprint("examine-", time.Now().UnixNano(), "-")}
	e.all = append([]string{e.base}, others...)
	t.Run("life-of-a-lock", e.life)
	t.Run("compare-and-delete", e.compareAndDelete)
	t.Run("expiry-and-takeover", e.expiry)
	t.Run("renewal-outlives-the-ttl", e.renewal)
	t.Run("mutual-exclusion", e.exclusion)
	t.Run("one-winner", e.oneWinner)
	t.Run("wait-for-release", e.waitForRelease)
	t.Run("wait-for-expiry", e.waitForExpiry)
	t.Run("wait-in-vain", e.waitInVain)
	t.Run("wait-of-one-who-left", e.waitLeft)
	t.Run("wait-in-turn", e.waitInTurn)
	t.Run("list", e.list)
	t.Run("names", e.names)
	t.Run("bad-requests", e.badRequests)
}

type response struct {
	status int
	header http.Header
	body   []byte
}

// lock is every member that any answer may have.
type lock struct {
	Name      string
	Token     string
	Held      bool
	Fence     int64
	ExpiresAt time.Time `json:"expires_at"`
}

func (r response) lock(t testing.TB) lock {
	t.Helper()
	var l lock
	if err := json.Unmarshal(r.body, &l); err != nil {
		t.Fatalf("reading %s: %v", r.body, err)
	}
	return l
}

func (e *exam) send(method, path, body string) (response, error) {
	return e.sendTo(context.Background(), e.base, method, path, body)
}

// sendTo sends to one of the instances.
func (e *exam) sendTo(ctx context.Context, base, method, path, body string) (response, error) {
	req, err := http.NewRequestWithContext(ctx, method, base+path, strings.NewReader(body))
	if err != nil {
		return response{}, err
	}
	req.Header.Set("Gatehouse-Rank", "operator") // where nothing stands in front; a gateway says it itself
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := e.client.Do(req)
	if err != nil {
		return response{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	return response{resp.StatusCode, resp.Header, b}, err
}

// want sends a request whose answer must have the status.
func (e *exam) want(t testing.TB, status int, method, path, body string) response {
	t.Helper()
	r, err := e.send(method, path, body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	if r.status != status {
		t.Fatalf("%s %s %s: got %d %s, want %d", method, path, body, r.status, r.body, status)
	}
	return r
}

// problem sends a request whose answer must be a problem document.
func (e *exam) problem(t testing.TB, status int, code, method, path, body string) response {
	t.Helper()
	r := e.want(t, status, method, path, body)
	var doc struct {
		Type, Title, Instance string
		Status                int
	}
	if ct := r.header.Get("Content-Type"); ct != "application/problem+json" {
		t.Errorf("%s %s: got %s %s, want a problem document", method, path, ct, r.body)
		return r
	}
	if err := json.Unmarshal(r.body, &doc); err != nil || !strings.HasSuffix(doc.Type, "/"+code) || doc.Status != status || doc.Title == "" || doc.Instance == "" {
		t.Errorf("%s %s: got %s, want a whole problem of type %s", method, path, r.body, code)
	}
	return r
}

func (e *exam) path(name string) string { return "/locks/" + e.run + name }

func withToken(token string) string { return `{"token":"` + token + `"}` }

func (e *exam) life(t *testing.T) {
	path := e.path("life")
	if l := e.want(t, 200, "GET", path, "").lock(t); l.Held || l.Name != strings.TrimPrefix(path, "/locks/") {
		t.Errorf("got %+v before it was acquired", l)
	}
	began := time.Now()
	l := e.want(t, 200, "POST", path, `{"ttl":"60s"}`).lock(t)
	if len(l.Token) < 22 || l.Fence < 1 || l.Name != strings.TrimPrefix(path, "/locks/") {
		t.Errorf("got %+v, want a name, a token of 128 bits and a fence", l)
	}
	if ttl := l.ExpiresAt.Sub(began); ttl < 50*time.Second || ttl > 90*time.Second || l.ExpiresAt.Location() != time.UTC {
		t.Errorf("got expires_at %s, want it in 60 s", l.ExpiresAt)
	}
	r := e.problem(t, 409, "lock-held", "POST", path, `{"ttl":"1s"}`)
	if strings.Contains(string(r.body), l.Token) {
		t.Error("a refusal tells the owner's token")
	}
	if s, err := strconv.Atoi(r.header.Get("Retry-After")); err != nil || s < 1 || s > 60 {
		t.Errorf("got Retry-After %q, want 1 to 60", r.header.Get("Retry-After"))
	}
	if other := r.lock(t); !other.ExpiresAt.Equal(l.ExpiresAt) {
		t.Errorf("got expires_at %s in a refusal, want %s", other.ExpiresAt, l.ExpiresAt)
	}
	r = e.want(t, 200, "GET", path, "")
	if seen := r.lock(t); !seen.Held || seen.Fence != l.Fence || !seen.ExpiresAt.Equal(l.ExpiresAt) || strings.Contains(string(r.body), "token") {
		t.Errorf("got %s, want the lock without its token", r.body)
	}
	renewed := e.want(t, 200, "PUT", path, `{"token":"`+l.Token+`","ttl":"120s"}`).lock(t)
	if renewed.Token != l.Token || renewed.Fence != l.Fence || !renewed.ExpiresAt.After(l.ExpiresAt) {
		t.Errorf("got %+v after renewing %+v", renewed, l)
	}
	if r = e.want(t, 204, "DELETE", path, withToken(l.Token)); len(r.body) != 0 {
		t.Errorf("DELETE: got %s", r.body)
	}
	e.problem(t, 404, "not-found", "DELETE", path, withToken(l.Token))
	e.problem(t, 409, "conflict", "PUT", path, withToken(l.Token))
	next := e.want(t, 200, "POST", path, "").lock(t)
	if next.Fence <= l.Fence || next.Token == l.Token {
		t.Errorf("got fence %d after %d, want a greater one and another token", next.Fence, l.Fence)
	}
	e.want(t, 204, "DELETE", path+"?token="+next.Token, "")
}

func (e *exam) compareAndDelete(t *testing.T) {
	path := e.path("compare")
	l := e.want(t, 200, "POST", path, "").lock(t)
	wrong := strings.Repeat("0", len(l.Token))
	e.problem(t, 409, "lock-held", "DELETE", path, withToken(wrong))
	e.problem(t, 409, "lock-held", "PUT", path, withToken(wrong))
	e.problem(t, 409, "lock-held", "DELETE", path+"?token="+strings.ToUpper(l.Token)+"x", "")
	if got := e.want(t, 200, "GET", path, "").lock(t); !got.Held || got.Fence != l.Fence {
		t.Errorf("got %+v after releases with wrong tokens", got)
	}
	other := e.want(t, 200, "POST", path+"-other", "").lock(t)
	e.problem(t, 409, "lock-held", "DELETE", path, withToken(other.Token))
	e.problem(t, 400, "invalid-request", "DELETE", path+"?token="+other.Token, withToken(l.Token))
	e.want(t, 204, "DELETE", path, withToken(l.Token))
	e.want(t, 204, "DELETE", path+"-other", withToken(other.Token))
}

// await polls until the lock can be acquired.
func (e *exam) await(t testing.TB, path, body string) lock {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		r, err := e.send("POST", path, body)
		switch {
		case err != nil:
			t.Fatal(err)
		case r.status == http.StatusOK:
			return r.lock(t)
		case r.status != http.StatusConflict:
			t.Fatalf("POST %s: got %d %s", path, r.status, r.body)
		}
		<-time.After(5 * time.Millisecond)
	}
	t.Fatalf("%s was not free in %s", path, patience)
	return lock{}
}

func (e *exam) expiry(t *testing.T) {
	path := e.path("expiry")
	first := e.want(t, 200, "POST", path, `{"ttl":"200ms"}`).lock(t)
	second := e.await(t, path, `{"ttl":"60s"}`)
	if second.Fence <= first.Fence {
		t.Errorf("got fence %d after %d", second.Fence, first.Fence)
	}
	if second.ExpiresAt.Add(-60 * time.Second).Before(first.ExpiresAt) {
		t.Errorf("taken over at %s, before the first lock ended at %s", second.ExpiresAt.Add(-60*time.Second), first.ExpiresAt)
	}
	// The first owner has lost it and can neither renew nor release it.
	e.problem(t, 409, "lock-held", "PUT", path, withToken(first.Token))
	e.problem(t, 409, "lock-held", "DELETE", path, withToken(first.Token))
	e.want(t, 204, "DELETE", path, withToken(second.Token))

	gone := e.want(t, 200, "POST", path+"-gone", `{"ttl":"100ms"}`).lock(t)
	for deadline := time.Now().Add(patience); e.want(t, 200, "GET", path+"-gone", "").lock(t).Held; <-time.After(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a lock of 100ms does not expire")
		}
	}
	e.problem(t, 409, "conflict", "PUT", path+"-gone", withToken(gone.Token))
	e.problem(t, 404, "not-found", "DELETE", path+"-gone", withToken(gone.Token))
}

// renewal keeps a lock of two seconds beyond them, against a competitor.
func (e *exam) renewal(t *testing.T) {
	path := e.path("renewal")
	l := e.want(t, 200, "POST", path, `{"ttl":"2s"}`).lock(t)
	for end := l.ExpiresAt.Add(500 * time.Millisecond); time.Now().Before(end); <-time.After(50 * time.Millisecond) {
		e.want(t, 200, "PUT", path, `{"token":"`+l.Token+`","ttl":"30s"}`)
		e.problem(t, 409, "lock-held", "POST", path, "")
	}
	e.want(t, 204, "DELETE", path, withToken(l.Token))
}

// exclusion lets 50 workers take the same lock in turn and watches that no two are in at once, and
// that a later turn has a greater fence.
func (e *exam) exclusion(t *testing.T) {
	const workers = 50
	path := e.path("exclusion")
	var inside, last, turns atomic.Int64
	turn := func(l lock) {
		if n := inside.Add(1); n != 1 {
			t.Errorf("%d owners at once", n)
		}
		if before := last.Swap(l.Fence); l.Fence <= before {
			t.Errorf("got fence %d after %d", l.Fence, before)
		}
		turns.Add(1)
		inside.Add(-1)
		if r, err := e.send("DELETE", path, withToken(l.Token)); err != nil || r.status != http.StatusNoContent {
			t.Errorf("releasing: got %d %s (%v)", r.status, r.body, err)
		}
	}
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			for deadline := time.Now().Add(3 * patience); time.Now().Before(deadline); <-time.After(2 * time.Millisecond) {
				r, err := e.sendTo(t.Context(), e.all[i%len(e.all)], "POST", path, `{"ttl":"60s"}`)
				var l lock
				switch {
				case err == nil && r.status == http.StatusConflict:
					continue
				case err != nil || r.status != http.StatusOK || json.Unmarshal(r.body, &l) != nil:
					t.Errorf("acquiring: got %d %s (%v)", r.status, r.body, err)
				default:
					turn(l)
				}
				return
			}
			t.Error("a worker never had its turn")
		})
	}
	wg.Wait()
	if turns.Load() != workers {
		t.Errorf("got %d turns, want %d", turns.Load(), workers)
	}
}

func (e *exam) oneWinner(t *testing.T) {
	path := e.path("winner")
	var wg sync.WaitGroup
	codes := make([]int, 50)
	for i := range codes {
		wg.Go(func() {
			if r, err := e.sendTo(t.Context(), e.all[i%len(e.all)], "POST", path, ""); err == nil {
				codes[i] = r.status
			}
		})
	}
	wg.Wait()
	slices.Sort(codes)
	if codes[0] != 200 || codes[1] != 409 || codes[len(codes)-1] != 409 {
		t.Errorf("got %v, want one 200 and 409 for all others", codes)
	}
}

func (e *exam) list(t *testing.T) {
	var want []string
	tokens := map[string]string{}
	for i := range 5 {
		name := e.run + "list-" + strconv.Itoa(9-i) // in the order of acquisition, not of names
		tokens[name] = e.want(t, 200, "POST", "/locks/"+name, "").lock(t).Token
		want = append(want, name)
	}
	var got []string
	cursor := ""
	for pages := 0; ; pages++ {
		if pages > 10_000 {
			t.Fatal("the list does not end")
		}
		var page struct {
			Items      []lock
			NextCursor string `json:"next_cursor"`
		}
		r := e.want(t, 200, "GET", "/locks?limit=2&cursor="+cursor, "")
		if err := json.Unmarshal(r.body, &page); err != nil || len(page.Items) > 2 {
			t.Fatalf("got %s: %v", r.body, err)
		}
		for _, l := range page.Items {
			if _, ours := tokens[l.Name]; ours {
				got = append(got, l.Name)
			}
			if l.Token != "" || !l.Held || l.Fence == 0 || l.ExpiresAt.IsZero() {
				t.Errorf("got %+v in the list", l)
			}
		}
		if cursor = page.NextCursor; cursor == "" {
			break
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for name, token := range tokens {
		e.want(t, 204, "DELETE", "/locks/"+name, withToken(token))
	}
	for _, q := range []string{"limit=0", "limit=1001", "limit=x", "cursor=x", "cursor=-1", "cursor=99999999999999999999"} {
		e.problem(t, 400, "invalid-request", "GET", "/locks?"+q, "")
	}
}

func (e *exam) names(t *testing.T) {
	for _, name := range []string{"orders/42", "with space", "ünïcödé", "日本", "😀", "a%b?c#d&e", strings.Repeat("n", 256-len(e.run))} {
		path := "/locks/" + url.PathEscape(e.run+name)
		l := e.want(t, 200, "POST", path, "").lock(t)
		if l.Name != e.run+name {
			t.Errorf("got name %q, want %q", l.Name, e.run+name)
		}
		e.want(t, 204, "DELETE", path, withToken(l.Token))
	}
	for _, name := range []string{"a%00", "a%0A", "%1B%5B0m", "a%7F", "%FF", "a%C2%85", "%E2%80%8B", strings.Repeat("n", 257)} {
		for _, method := range []string{"GET", "POST", "PUT", "DELETE"} {
			e.problem(t, 400, "invalid-request", method, "/locks/"+name, "")
		}
	}
}

func (e *exam) badRequests(t *testing.T) {
	path := e.path("bad")
	for _, ttl := range []string{`"99ms"`, `"0s"`, `"-1s"`, `"24h1s"`, `"1000000h"`, `"99999999999999999999s"`, `30`, `"30"`, `""`, `null`, `"x"`, `[]`, `{}`, `true`} {
		e.problem(t, 400, "invalid-request", "POST", path, `{"ttl":`+ttl+`}`)
		e.problem(t, 400, "invalid-request", "PUT", path, `{"token":"x","ttl":`+ttl+`}`)
	}
	for _, wait := range []string{`"30s1ms"`, `"-1s"`, `"24h"`, `30`, `"30"`, `""`, `null`, `[]`} {
		e.problem(t, 400, "invalid-request", "POST", path, `{"wait":`+wait+`}`)
	}
	for _, body := range []string{`{`, `[]`, `"x"`, `{"ttl":"1s"}{}`, `{"ttl":"1s","owner":"me"}`, "\xff"} {
		e.problem(t, 400, "invalid-request", "POST", path, body)
	}
	for _, method := range []string{"PUT", "DELETE"} {
		for _, body := range []string{``, `{}`, `{`, `{"token":""}`, `{"token":null}`, `{"token":1}`, `{"token":"x","fence":1}`, withToken(strings.Repeat("t", 257))} {
			e.problem(t, 400, "invalid-request", method, path, body)
		}
		e.problem(t, 413, "content-too-large", method, path, withToken(strings.Repeat("t", 5000)))
	}
	e.problem(t, 413, "content-too-large", "POST", path, `{"ttl":"`+strings.Repeat(" ", 5000)+`"}`)
	e.problem(t, 400, "invalid-request", "DELETE", path+"?token=", "")
	e.problem(t, 409, "conflict", "PUT", path, withToken("x"))
	e.problem(t, 404, "not-found", "DELETE", path, withToken("x"))
	e.problem(t, 405, "method-not-allowed", "PATCH", path, "{}")
	e.problem(t, 405, "method-not-allowed", "POST", "/locks", "{}")
	e.problem(t, 404, "not-found", "GET", path+"/history", "")
	if l := e.want(t, 200, "GET", path, "").lock(t); l.Held {
		t.Error("a request that was refused has acquired the lock")
	}
}
