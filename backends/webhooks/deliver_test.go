package webhooks

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/integration/pgtest"
	"github.com/gatehouse-proxy/gatehouse/internal/egress"
	"github.com/gatehouse-proxy/gatehouse/internal/signature"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

func TestJudge(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	tests := []struct {
		name       string
		status     int
		retryAfter string
		err        error
		attempts   int
		state      string
		after      time.Duration // 0: no postponement
		permanent  bool
		disable    bool
	}{
		{name: "ok", status: 200, state: delivered},
		{name: "no-content", status: 204, state: delivered},
		{name: "last-of-the-good", status: 299, state: delivered},
		{name: "redirect", status: 301, state: retrying},
		{name: "informational", status: 199, state: retrying},
		{name: "bad-request", status: 400, state: retrying},
		{name: "server-error", status: 500, state: retrying},
		{name: "gone", status: 410, state: failed, permanent: true, disable: true},
		{name: "busy-without-header", status: 503, state: retrying},
		{name: "busy", status: 503, retryAfter: "30", state: retrying, after: 30 * time.Second},
		{name: "too-many", status: 429, retryAfter: "Thu, 01 Jan 2026 00:01:00 GMT", state: retrying, after: time.Minute},
		{name: "too-long", status: 429, retryAfter: "4000000000", state: retrying, after: 24 * time.Hour},
		{name: "beyond-all-bounds", status: 429, retryAfter: strings.Repeat("9", 500), state: retrying},
		{name: "zero", status: 429, retryAfter: "0", state: retrying},
		{name: "negative", status: 429, retryAfter: "-5", state: retrying},
		{name: "past", status: 429, retryAfter: "Thu, 01 Jan 2015 00:01:00 GMT", state: retrying},
		{name: "nonsense", status: 429, retryAfter: "\x00soon", state: retrying},
		{name: "not-for-other-statuses", status: 500, retryAfter: "30", state: retrying},
		{name: "postponed-too-often", status: 503, retryAfter: "1", attempts: maxPostponed, state: retrying},
		{name: "blocked", err: &net.OpError{Op: "dial", Err: egress.ErrAddress}, state: failed, permanent: true},
		{name: "no-name", err: &net.DNSError{Err: "no such host"}, state: retrying},
		{name: "no-connection", err: errors.New("connection refused to 10.1.2.3"), state: retrying},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := judge(tt.status, tt.retryAfter, tt.err, tt.attempts, now)
			if o.state != tt.state || o.disable != tt.disable || (o.err == nil) != (tt.state == delivered) {
				t.Errorf("got %+v", o)
			}
			p, ok := errors.AsType[postponed](o.err)
			if ok != (tt.after != 0) || p.after != tt.after || ok && !o.nextAt.Equal(now.Add(tt.after)) {
				t.Errorf("got postponed %v by %s, want %s", ok, p.after, tt.after)
			}
			if _, ok := errors.AsType[ended](o.err); ok != tt.permanent {
				t.Errorf("got permanent %v, want %v", ok, tt.permanent)
			}
			if strings.Contains(o.message, "10.1.2.3") || o.err != nil && strings.Contains(o.err.Error(), "10.1.2.3") {
				t.Errorf("the message tells an address: %q, %v", o.message, o.err)
			}
		})
	}
}

func FuzzRetryAfter(f *testing.F) {
	f.Add("120")
	f.Add("Thu, 01 Jan 2026 00:01:00 GMT")
	f.Add("-1")
	f.Fuzz(func(t *testing.T, s string) {
		after, ok := parseRetryAfter(s, time.Unix(1767225600, 0))
		if ok && (after <= 0 || after > maxRetryAfter) {
			t.Fatalf("%q: got %s", s, after)
		}
	})
}

// counted is a TLS server that counts the connections that reach it.
func counted(t *testing.T, h http.Handler) (*httptest.Server, *atomic.Int64) {
	t.Helper()
	var n atomic.Int64
	srv := httptest.NewUnstartedServer(h)
	srv.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			n.Add(1)
		}
	}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv, &n
}

func trust(s *sender, g *guard, srv *httptest.Server) {
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	s.client = newClient(g, &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12})
}

func newKey(t *testing.T) signature.Key {
	t.Helper()
	key, err := signature.Standard.ParseKey([]byte(signature.NewStandardSecret()))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestNamesThatResolveToLoopbackAreNotDialled: the guard judges addresses, so no name gets past it.
func TestNamesThatResolveToLoopbackAreNotDialled(t *testing.T) {
	srv, dialled := counted(t, http.NotFoundHandler())
	_, port, _ := net.SplitHostPort(srv.Listener.Addr().String())
	for _, name := range []string{"localhost", "127.0.0.1", "2130706433", "0x7f000001", "127.1"} {
		g, err := newGuard(nil)
		if err != nil {
			t.Fatal(err)
		}
		s := newSender(g, time.Second)
		trust(s, g, srv)
		for _, scheme := range []string{"https", "http"} {
			_, _, err = s.post(t.Context(), scheme+"://"+name+":"+port, "evt_1", time.Now(), nil, newKey(t))
			if err == nil {
				t.Errorf("%s://%s was reached", scheme, name)
			}
			if name == "localhost" && !errors.Is(err, egress.ErrAddress) {
				t.Errorf("%s: got %v, want %v", name, err, egress.ErrAddress)
			}
		}
	}
	if n := dialled.Load(); n != 0 {
		t.Errorf("%d connections were made", n)
	}
}

func TestPostOverTLS(t *testing.T) {
	srv, _ := counted(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	g, _ := newGuard([]string{"127.0.0.0/8"})
	s := newSender(g, 5*time.Second)
	if _, _, err := s.post(t.Context(), srv.URL, "evt_1", time.Now(), nil, newKey(t)); err == nil || reason(err) != "the TLS certificate is not valid" {
		t.Errorf("got %v, want a refusal of the unknown certificate", err)
	}
	trust(s, g, srv)
	status, retryAfter, err := s.post(t.Context(), srv.URL, "evt_1", time.Now(), nil, newKey(t))
	if err != nil || status != http.StatusServiceUnavailable || retryAfter != "7" {
		t.Errorf("got %d %q %v, want 503 and 7", status, retryAfter, err)
	}
}

func TestSlowAnswers(t *testing.T) {
	release := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/body" {
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
		}
		<-release
	}))
	defer srv.Close()
	defer close(release)
	g, _ := newGuard([]string{"127.0.0.0/8"})
	s := newSender(g, 100*time.Millisecond)
	if _, _, err := s.post(t.Context(), srv.URL, "evt_1", time.Now(), nil, newKey(t)); err == nil || reason(err) != "no answer in time" {
		t.Errorf("got %v, want a timeout", err)
	}
	// A success whose body never ends is none.
	if status, _, err := s.post(t.Context(), srv.URL+"/body", "evt_1", time.Now(), nil, newKey(t)); err == nil || reason(err) != "no answer in time" {
		t.Errorf("got %d, %v, want a timeout", status, err)
	}
}

func TestDeliverOutcomes(t *testing.T) { pgtest.Each(t, testDeliverOutcomes) }

func testDeliverOutcomes(t *testing.T, url string) {
	s, _ := newService(t, Config{AllowPrivate: []string{"127.0.0.0/8"}, Timeout: unit.Duration(time.Second)}, url)
	var hits atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		hits.Add(1)
		w.WriteHeader(http.StatusInternalServerError)
	}))
	defer srv.Close()
	var e endpoint
	if err := json.Unmarshal([]byte(post(t, s, "/endpoints", `{"url":"`+srv.URL+`"}`, http.StatusCreated)), &e); err != nil {
		t.Fatal(err)
	}
	post(t, s, "/events", `{"type":"a","payload":1}`, http.StatusAccepted)

	// The queue gives up after its attempts; each of them was made and recorded.
	waitFor(t, "the queue to give up", func() bool { return hits.Load() == queueAttempts && count(t, s, "queue") == 0 })
	var id, state, message string
	var attempts int
	row := s.db.Read.QueryRowContext(t.Context(), "SELECT id, state, last_error, attempts FROM webhooks_deliveries")
	if err := row.Scan(&id, &state, &message, &attempts); err != nil {
		t.Fatal(err)
	}
	if state != retrying || message != "HTTP 500" || attempts != queueAttempts {
		t.Errorf("got %s %q after %d attempts", state, message, attempts)
	}

	// What can never be delivered ends its job at once.
	job := []byte(`{"delivery":` + strconv.Quote(id) + `}`)
	w := httptest.NewRecorder()
	asOperator(s).ServeHTTP(w, httptest.NewRequest(http.MethodPut, "/endpoints/"+e.ID, strings.NewReader(`{"url":"`+srv.URL+`","state":"disabled"}`)))
	if w.Code != http.StatusOK {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	for name, payload := range map[string][]byte{"disabled-endpoint": job, "damaged-job": []byte("{")} {
		if _, ok := errors.AsType[ended](s.deliver(t.Context(), payload)); !ok {
			t.Errorf("%s: the job is not ended", name)
		}
	}
	if err := s.deliver(t.Context(), []byte(`{"delivery":"dlv_deleted"}`)); err != nil {
		t.Errorf("a delivery that was deleted: got %v, want its job done", err)
	}
	if hits.Load() != queueAttempts {
		t.Errorf("a disabled endpoint was called")
	}
}

// TestStopIsNoFailure: an attempt that our own stop cuts off is not held against the endpoint.
func TestStopIsNoFailure(t *testing.T) { pgtest.Each(t, testStopIsNoFailure) }

func testStopIsNoFailure(t *testing.T, url string) {
	s, _ := newService(t, loopback(), url)
	ctx, cancel := context.WithCancel(t.Context())
	release := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		cancel()
		<-release
	}))
	defer srv.Close()
	defer close(release)
	s.jobs = idleJobs{s.jobs}
	post(t, s, "/endpoints", `{"url":"`+srv.URL+`"}`, http.StatusCreated)
	post(t, s, "/events", `{"type":"a","payload":1}`, http.StatusAccepted)
	var id string
	if err := s.db.Read.QueryRowContext(t.Context(), "SELECT id FROM webhooks_deliveries").Scan(&id); err != nil {
		t.Fatal(err)
	}
	if err := s.deliver(ctx, []byte(`{"delivery":`+strconv.Quote(id)+`}`)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	if d, err := s.delivery(t.Context(), id); err != nil || d.State != pending || d.Attempts != 0 {
		t.Errorf("got %+v, %v, want it untouched", d, err)
	}
}

// idleJobs takes jobs and runs none.
type idleJobs struct{ Jobs }

func (idleJobs) EnqueueKeyedTx(context.Context, *sql.Tx, string, string, []byte) (string, error) {
	return "job", nil
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); <-time.After(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited 10s for %s", what)
		}
	}
}

func TestTypes(t *testing.T) {
	for _, tt := range []struct {
		patterns []string
		typ      string
		want     bool
	}{
		{nil, "order.created", true},
		{[]string{"*"}, "order.created", true},
		{[]string{"order.*"}, "order.created", true},
		{[]string{"order.*"}, "order.item.added", true},
		{[]string{"order.*"}, "order", false},
		{[]string{"order.*"}, "orders.created", false},
		{[]string{"order.created"}, "order.created.v2", false},
		{[]string{"user.*", "order.created"}, "order.created", true},
	} {
		if got := wanted(tt.patterns, tt.typ); got != tt.want {
			t.Errorf("%v, %s: got %v, want %v", tt.patterns, tt.typ, got, tt.want)
		}
	}
	for s, want := range map[string]bool{
		"*": true, "a": true, "a.*": true, "a.b-c_D.9": true, "": false, ".": false, "a.": false, ".*": false,
		"a*": false, "a.*.b": false, "**": false, "ä": false, "a b": false, strings.Repeat("a", 129): false,
	} {
		if got := validPattern(s); got != want {
			t.Errorf("%q: got %v, want %v", s, got, want)
		}
	}
}
