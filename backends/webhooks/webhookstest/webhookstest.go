// Package webhookstest is the examiner of the webhooks backend. It knows its HTTP API alone, so it
// judges a backend in this process, one behind a proxy and one in another process alike.
package webhookstest

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// patience is how long the examiner waits for what must happen in the end: several retries with
// the backoff of a slow machine.
const patience = 60 * time.Second

// Users are the way in for users.
type Users struct {
	// Base is where the backend answers them.
	Base string
	// As makes the request one of the named user.
	As func(r *http.Request, user string)
}

// Examine judges the webhooks backend at base, such as http://127.0.0.1:8080, where every caller is an
// operator, and at users.Base. It listens on 127.0.0.1 itself, so the backend must be configured with
// allow_private 127.0.0.0/8 and user_private. Endpoints and events that are there already do not disturb it.
func Examine(t *testing.T, base string, client *http.Client, users Users) {
	x := &examiner{base: strings.TrimSuffix(base, "/"), client: client, users: users, as: func(*http.Request) {}}
	t.Run("endpoint-life", x.endpointLife)
	t.Run("signed-delivery", x.signedDelivery)
	t.Run("types", x.types)
	t.Run("retry-after-failure", x.retryAfterFailure)
	t.Run("retry-after-header", x.retryAfterHeader)
	t.Run("gone", x.gone)
	t.Run("redirect", x.redirect)
	t.Run("same-event-twice", x.sameEventTwice)
	t.Run("same-event-at-once", x.sameEventAtOnce)
	t.Run("manual-retry", x.manualRetry)
	t.Run("deleted-endpoint", x.deletedEndpoint)
	t.Run("pages", x.pages)
	t.Run("bad-input", x.badInput)
	t.Run("owners", x.owners)
	t.Run("owners-events", x.ownersEvents)
	t.Run("owners-bounds", x.ownersBounds)
}

type examiner struct {
	base   string
	client *http.Client
	users  Users
	as     func(r *http.Request) // makes a request the caller's
}

type endpoint struct {
	ID     string   `json:"id"`
	Owner  string   `json:"owner"`
	URL    string   `json:"url"`
	Types  []string `json:"types"`
	State  string   `json:"state"`
	Secret string   `json:"secret"`
}

type event struct {
	ID         string `json:"id"`
	Deliveries int    `json:"deliveries"`
	Duplicate  bool   `json:"duplicate"`
}

type delivery struct {
	ID         string `json:"id"`
	Owner      string `json:"owner"`
	EventID    string `json:"event_id"`
	EventType  string `json:"event_type"`
	EndpointID string `json:"endpoint_id"`
	State      string `json:"state"`
	Attempts   int    `json:"attempts"`
	LastStatus int    `json:"last_status"`
	LastError  string `json:"last_error"`
}

type list[T any] struct {
	Items      []T    `json:"items"`
	NextCursor string `json:"next_cursor"`
}

// raw makes a request and returns the status, the headers and the body.
func (x *examiner) raw(t *testing.T, method, path, contentType, body string) (int, http.Header, []byte) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, x.base+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	x.as(r)
	resp, err := x.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, b
}

// call sends in as JSON, if it is not nil, expects the status and decodes the answer into out, if
// that is not nil.
func (x *examiner) call(t *testing.T, method, path string, in any, want int, out any) {
	t.Helper()
	body, contentType := "", ""
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		body, contentType = string(b), "application/json"
	}
	got, _, b := x.raw(t, method, path, contentType, body)
	if got != want {
		t.Fatalf("%s %s: got %d %s, want %d", method, path, got, b, want)
	}
	if out != nil {
		if err := json.Unmarshal(b, out); err != nil {
			t.Fatalf("%s %s: got %s: %v", method, path, b, err)
		}
	}
}

type object = map[string]any

// endpoint makes one that is deleted when the test ends.
func (x *examiner) endpoint(t *testing.T, url string, types ...string) endpoint {
	t.Helper()
	var e endpoint
	x.call(t, http.MethodPost, "/endpoints", object{"url": url, "types": types}, http.StatusCreated, &e)
	t.Cleanup(func() {
		r, err := http.NewRequest(http.MethodDelete, x.base+"/endpoints/"+e.ID, nil)
		if err != nil {
			t.Error(err)
			return
		}
		x.as(r)
		if resp, err := x.client.Do(r); err == nil {
			_ = resp.Body.Close()
		}
	})
	return e
}

func (x *examiner) publish(t *testing.T, typ string, payload any) event {
	t.Helper()
	var e event
	x.call(t, http.MethodPost, "/events", object{"type": typ, "payload": payload}, http.StatusAccepted, &e)
	return e
}

// only is the one delivery that the endpoint has.
func (x *examiner) only(t *testing.T, endpoint string) delivery {
	t.Helper()
	var l list[delivery]
	x.call(t, http.MethodGet, "/deliveries?endpoint="+endpoint, nil, http.StatusOK, &l)
	if len(l.Items) != 1 {
		t.Fatalf("got %d deliveries, want 1", len(l.Items))
	}
	return l.Items[0]
}

// settled waits until the endpoint's one delivery is in the state.
func (x *examiner) settled(t *testing.T, endpoint, state string) delivery {
	t.Helper()
	var d delivery
	eventually(t, "a delivery that is "+state, func() bool {
		d = x.only(t, endpoint)
		return d.State == state
	})
	return d
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); <-time.After(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s for %s", patience, what)
		}
	}
}

// sink is a receiver of webhooks. It answers with the statuses given, one after the other, and
// with the last of them from then on.
type sink struct {
	*httptest.Server
	mu     sync.Mutex
	header http.Header // of the answers
	plan   []int
	got    []request
}

type request struct {
	path   string
	header http.Header
	body   []byte
	at     time.Time
}

func newSink(t *testing.T, plan ...int) *sink {
	s := &sink{plan: plan, header: http.Header{}}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got = append(s.got, request{r.URL.Path, r.Header.Clone(), body, time.Now()})
	status := s.plan[min(len(s.got), len(s.plan))-1]
	if status >= 300 {
		for name, values := range s.header {
			w.Header()[name] = values
		}
	}
	w.WriteHeader(status)
}

func (s *sink) requests() []request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]request(nil), s.got...)
}

// wait returns the first n requests, once they are there.
func (s *sink) wait(t *testing.T, n int) []request {
	t.Helper()
	eventually(t, "the sink's requests", func() bool { return len(s.requests()) >= n })
	return s.requests()[:n]
}

// isProblem says whether the body is a problem document of that status.
func isProblem(h http.Header, body []byte, status int) bool {
	var doc struct {
		Type, Title string
		Status      int
	}
	return h.Get("Content-Type") == "application/problem+json" && json.Unmarshal(bytes.TrimSpace(body), &doc) == nil &&
		doc.Status == status && doc.Type != "" && doc.Title != ""
}
