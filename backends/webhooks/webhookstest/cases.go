package webhookstest

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/signature"
)

// newType is an event type that no other endpoint waits for.
func newType() string { return "exam" + strings.ToLower(rand.Text()) + ".created" }

func (x *examiner) endpointLife(t *testing.T) {
	const url = "https://hooks.example.com/in"
	made := x.endpoint(t, url, "order.*")
	if !strings.HasPrefix(made.Secret, "whsec_") || made.State != "active" || made.URL != url || !slices.Equal(made.Types, []string{"order.*"}) {
		t.Errorf("got %+v, want an active endpoint with its secret", made)
	}
	if _, err := signature.Standard.ParseKey([]byte(made.Secret)); err != nil {
		t.Errorf("the secret is none of Standard Webhooks: %v", err)
	}
	for _, path := range []string{"/endpoints/" + made.ID, "/endpoints?limit=1000"} {
		if _, _, b := x.raw(t, http.MethodGet, path, "", ""); bytes.Contains(b, []byte("whsec_")) {
			t.Errorf("GET %s shows a secret", path)
		}
	}
	var got endpoint
	x.call(t, http.MethodPut, "/endpoints/"+made.ID, object{"url": url + "/2", "types": []string{"user.created"}, "state": "disabled"}, http.StatusOK, &got)
	if got.URL != url+"/2" || got.State != "disabled" || got.Secret != "" {
		t.Errorf("after PUT: got %+v", got)
	}
	x.call(t, http.MethodGet, "/endpoints/"+made.ID, nil, http.StatusOK, &got)
	if got.URL != url+"/2" || !slices.Equal(got.Types, []string{"user.created"}) {
		t.Errorf("after PUT and GET: got %+v", got)
	}
	x.call(t, http.MethodDelete, "/endpoints/"+made.ID, nil, http.StatusNoContent, nil)
	for _, method := range []string{http.MethodGet, http.MethodDelete} {
		x.call(t, method, "/endpoints/"+made.ID, nil, http.StatusNotFound, nil)
	}
}

// verify checks a request with the endpoint's secret as its owner would.
func verify(t *testing.T, e endpoint, r request, eventID string) {
	t.Helper()
	key, err := signature.Standard.ParseKey([]byte(e.Secret))
	if err != nil {
		t.Fatal(err)
	}
	got, err := signature.Standard.Verify(r.at, r.header, r.body, signature.DefaultTolerance, key)
	if err != nil {
		t.Fatalf("the signature does not verify: %v", err)
	}
	if got.ID != eventID {
		t.Errorf("got webhook-id %q, want %q", got.ID, eventID)
	}
}

func (x *examiner) signedDelivery(t *testing.T) {
	s, typ := newSink(t, http.StatusOK), newType()
	e := x.endpoint(t, s.URL+"/in?x=1", typ)
	// Bytes that a re-encoding would change: the number, the order, the space, the characters.
	const payload = `{"z":1.0, "a":"Zoë ☃ <&>"}`
	var sent event
	status, _, b := x.raw(t, http.MethodPost, "/events", "application/json", `{"type":"`+typ+`","payload":`+payload+`}`)
	if status != http.StatusAccepted || json.Unmarshal(b, &sent) != nil || sent.Deliveries != 1 || sent.ID == "" {
		t.Fatalf("got %d %s, want 202 with one delivery", status, b)
	}
	r := s.wait(t, 1)[0]
	verify(t, e, r, sent.ID)
	var body struct {
		Type      string          `json:"type"`
		Timestamp time.Time       `json:"timestamp"`
		Data      json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(r.body, &body); err != nil {
		t.Fatal(err)
	}
	if body.Type != typ || string(body.Data) != payload || time.Since(body.Timestamp).Abs() > time.Minute {
		t.Errorf("got %s, want the type, a timestamp and the payload's own bytes", r.body)
	}
	if r.path != "/in" || r.header.Get("Content-Type") != "application/json" || r.header.Get("User-Agent") == "" {
		t.Errorf("got path %s and headers %v", r.path, r.header)
	}
	d := x.settled(t, e.ID, "delivered")
	if d.Attempts != 1 || d.LastStatus != http.StatusOK || d.LastError != "" || d.EventID != sent.ID || d.EventType != typ {
		t.Errorf("got %+v", d)
	}
	var one delivery
	x.call(t, http.MethodGet, "/deliveries/"+d.ID, nil, http.StatusOK, &one)
	if one != d {
		t.Errorf("got %+v, want %+v", one, d)
	}
}

func (x *examiner) types(t *testing.T) {
	s := newSink(t, http.StatusNoContent)
	topic := strings.TrimSuffix(newType(), ".created")
	all, exact, other := x.endpoint(t, s.URL+"/all", topic+".*"), x.endpoint(t, s.URL+"/exact", topic+".a.b"), x.endpoint(t, s.URL+"/other", topic+"x.*")
	if got := x.publish(t, topic+".a.b", 1).Deliveries; got != 2 {
		t.Errorf("got %d deliveries, want 2", got)
	}
	if got := x.publish(t, topic+".a", nil).Deliveries; got != 1 {
		t.Errorf("got %d deliveries, want 1", got)
	}
	if got := x.publish(t, topic, nil).Deliveries; got != 0 {
		t.Errorf("got %d deliveries, want 0", got)
	}
	for id, want := range map[string]int{all.ID: 2, exact.ID: 1, other.ID: 0} {
		var l list[delivery]
		x.call(t, http.MethodGet, "/deliveries?endpoint="+id, nil, http.StatusOK, &l)
		if len(l.Items) != want {
			t.Errorf("got %d deliveries, want %d", len(l.Items), want)
		}
	}
	s.wait(t, 3)
}

func (x *examiner) retryAfterFailure(t *testing.T) {
	s, typ := newSink(t, http.StatusInternalServerError, http.StatusBadRequest, http.StatusOK), newType()
	e := x.endpoint(t, s.URL, typ)
	sent := x.publish(t, typ, object{"n": 1})
	got := s.wait(t, 3)
	for i, r := range got {
		verify(t, e, r, sent.ID)
		if !bytes.Equal(r.body, got[0].body) {
			t.Errorf("attempt %d sent %s, the first one sent %s", i+1, r.body, got[0].body)
		}
	}
	if d := x.settled(t, e.ID, "delivered"); d.Attempts != 3 || d.LastStatus != http.StatusOK {
		t.Errorf("got %+v, want 3 attempts", d)
	}
}

func (x *examiner) retryAfterHeader(t *testing.T) {
	s, typ := newSink(t, http.StatusServiceUnavailable, http.StatusTooManyRequests, http.StatusOK), newType()
	s.header.Set("Retry-After", "1")
	e := x.endpoint(t, s.URL, typ)
	x.publish(t, typ, nil)
	got := s.wait(t, 3)
	for i := range 2 {
		if wait := got[i+1].at.Sub(got[i].at); wait < 900*time.Millisecond {
			t.Errorf("attempt %d came after %s although the endpoint asked for 1s", i+2, wait)
		}
	}
	x.settled(t, e.ID, "delivered")
}

func (x *examiner) gone(t *testing.T) {
	s, typ := newSink(t, http.StatusGone), newType()
	e := x.endpoint(t, s.URL, typ)
	x.publish(t, typ, nil)
	d := x.settled(t, e.ID, "failed")
	if d.Attempts != 1 || d.LastStatus != http.StatusGone {
		t.Errorf("got %+v, want one attempt answered 410", d)
	}
	var got endpoint
	x.call(t, http.MethodGet, "/endpoints/"+e.ID, nil, http.StatusOK, &got)
	if got.State != "disabled" {
		t.Errorf("got state %q, want disabled", got.State)
	}
	if n := x.publish(t, typ, nil).Deliveries; n != 0 {
		t.Errorf("got %d deliveries to a disabled endpoint, want 0", n)
	}
	x.call(t, http.MethodPost, "/deliveries/"+d.ID+"/retry", nil, http.StatusConflict, nil)
}

func (x *examiner) redirect(t *testing.T) {
	target, typ := newSink(t, http.StatusOK), newType()
	s := newSink(t, http.StatusFound, http.StatusOK)
	s.header.Set("Location", target.URL+"/elsewhere")
	e := x.endpoint(t, s.URL, typ)
	x.publish(t, typ, nil)
	s.wait(t, 2) // the redirect was a failure, so there is a second attempt at the same place
	x.settled(t, e.ID, "delivered")
	if n := len(target.requests()); n != 0 {
		t.Errorf("a redirect was followed %d times", n)
	}
}

func (x *examiner) sameEventTwice(t *testing.T) {
	s, typ := newSink(t, http.StatusOK), newType()
	e := x.endpoint(t, s.URL, typ)
	in := object{"type": typ, "payload": 1, "id": "exam-" + rand.Text()}
	var first, second event
	x.call(t, http.MethodPost, "/events", in, http.StatusAccepted, &first)
	x.settled(t, e.ID, "delivered")
	x.call(t, http.MethodPost, "/events", in, http.StatusAccepted, &second)
	if first.Duplicate || !second.Duplicate || second.ID != first.ID || second.Deliveries != 0 {
		t.Errorf("got %+v, then %+v", first, second)
	}
	for member, value := range map[string]any{"payload": 2, "type": newType()} {
		other := object{"type": typ, "payload": 1, "id": in["id"]}
		other[member] = value
		x.call(t, http.MethodPost, "/events", other, http.StatusConflict, nil)
	}
	x.only(t, e.ID)
	if n := len(s.requests()); n != 1 {
		t.Errorf("the event was sent %d times, want once", n)
	}
}

func (x *examiner) sameEventAtOnce(t *testing.T) {
	s, typ := newSink(t, http.StatusOK), newType()
	e := x.endpoint(t, s.URL, typ)
	in := object{"type": typ, "payload": 1, "id": "exam-" + rand.Text()}
	var fresh int
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			var got event
			x.call(t, http.MethodPost, "/events", in, http.StatusAccepted, &got)
			mu.Lock()
			defer mu.Unlock()
			if !got.Duplicate {
				fresh++
			}
		})
	}
	wg.Wait()
	if fresh != 1 {
		t.Errorf("%d of 20 were told to be the first, want 1", fresh)
	}
	x.settled(t, e.ID, "delivered")
}

func (x *examiner) manualRetry(t *testing.T) {
	s, typ := newSink(t, http.StatusOK), newType()
	e := x.endpoint(t, s.URL, typ)
	sent := x.publish(t, typ, nil)
	d := x.settled(t, e.ID, "delivered")
	x.call(t, http.MethodPost, "/deliveries/"+d.ID+"/retry", nil, http.StatusAccepted, nil)
	for _, r := range s.wait(t, 2) {
		verify(t, e, r, sent.ID)
	}
	eventually(t, "the second attempt's record", func() bool {
		d = x.only(t, e.ID)
		return d.State == "delivered" && d.Attempts == 2
	})
}

func (x *examiner) deletedEndpoint(t *testing.T) {
	s, typ := newSink(t, http.StatusInternalServerError), newType()
	e := x.endpoint(t, s.URL, typ)
	x.publish(t, typ, nil)
	s.wait(t, 1)
	x.call(t, http.MethodDelete, "/endpoints/"+e.ID, nil, http.StatusNoContent, nil)
	d := x.settled(t, e.ID, "failed")
	x.call(t, http.MethodPost, "/deliveries/"+d.ID+"/retry", nil, http.StatusConflict, nil)
}

func (x *examiner) pages(t *testing.T) {
	s, typ := newSink(t, http.StatusOK), newType()
	e := x.endpoint(t, s.URL, typ)
	want := make([]string, 5)
	for i := range want {
		want[i] = x.publish(t, typ, i).ID
	}
	slices.Reverse(want)
	var got []string
	cursor := ""
	for range 10 {
		var l list[delivery]
		x.call(t, http.MethodGet, "/deliveries?limit=2&endpoint="+e.ID+"&cursor="+cursor, nil, http.StatusOK, &l)
		for _, d := range l.Items {
			got = append(got, d.EventID)
		}
		if cursor = l.NextCursor; cursor == "" {
			break
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	eventually(t, "all delivered", func() bool {
		var l list[delivery]
		x.call(t, http.MethodGet, "/deliveries?state=delivered&endpoint="+e.ID, nil, http.StatusOK, &l)
		return len(l.Items) == len(want)
	})
	var l list[object]
	x.call(t, http.MethodGet, "/received?limit=1", nil, http.StatusOK, &l)
	x.call(t, http.MethodGet, "/endpoints?limit=1", nil, http.StatusOK, &l)
	if len(l.Items) != 1 {
		t.Errorf("got %d endpoints on a page of one", len(l.Items))
	}
}

func (x *examiner) badInput(t *testing.T) {
	const json = "application/json"
	tests := []struct {
		name, method, path, contentType, body string
		want                                  int
	}{
		{"endpoint-empty-body", http.MethodPost, "/endpoints", json, "", 400},
		{"endpoint-not-json", http.MethodPost, "/endpoints", json, "{", 400},
		{"endpoint-two-values", http.MethodPost, "/endpoints", json, `{"url":"https://example.com"} {}`, 400},
		{"endpoint-unknown-member", http.MethodPost, "/endpoints", json, `{"url":"https://example.com","secret":"x"}`, 400},
		{"endpoint-wrong-type", http.MethodPost, "/endpoints", json, `{"url":17}`, 400},
		{"endpoint-no-url", http.MethodPost, "/endpoints", json, `{}`, 400},
		{"endpoint-relative", http.MethodPost, "/endpoints", json, `{"url":"/x"}`, 400},
		{"endpoint-no-host", http.MethodPost, "/endpoints", json, `{"url":"https:///x"}`, 400},
		{"endpoint-ftp", http.MethodPost, "/endpoints", json, `{"url":"ftp://example.com"}`, 400},
		{"endpoint-file", http.MethodPost, "/endpoints", json, `{"url":"file:///etc/passwd"}`, 400},
		{"endpoint-plain-http", http.MethodPost, "/endpoints", json, `{"url":"http://93.184.215.14/"}`, 400},
		{"endpoint-password", http.MethodPost, "/endpoints", json, `{"url":"https://a:b@example.com"}`, 400},
		{"endpoint-fragment", http.MethodPost, "/endpoints", json, `{"url":"https://example.com/#x"}`, 400},
		{"endpoint-control-character", http.MethodPost, "/endpoints", json, `{"url":"https://example.com/\u0000"}`, 400},
		{"endpoint-endless-url", http.MethodPost, "/endpoints", json, `{"url":"https://example.com/` + strings.Repeat("x", 3000) + `"}`, 400},
		{"endpoint-metadata-service", http.MethodPost, "/endpoints", json, `{"url":"https://169.254.169.254/latest"}`, 400},
		{"endpoint-private", http.MethodPost, "/endpoints", json, `{"url":"https://10.0.0.1/"}`, 400},
		{"endpoint-ipv6-loopback", http.MethodPost, "/endpoints", json, `{"url":"https://[::1]/"}`, 400},
		{"endpoint-mapped-private", http.MethodPost, "/endpoints", json, `{"url":"https://[::ffff:10.0.0.1]/"}`, 400},
		{"endpoint-zone", http.MethodPost, "/endpoints", json, `{"url":"https://[fe80::1%25eth0]/"}`, 400},
		{"endpoint-bad-pattern", http.MethodPost, "/endpoints", json, `{"url":"https://example.com","types":["order.*.x"]}`, 400},
		{"endpoint-empty-pattern", http.MethodPost, "/endpoints", json, `{"url":"https://example.com","types":[""]}`, 400},
		{"endpoint-bad-state", http.MethodPost, "/endpoints", json, `{"url":"https://example.com","state":"paused"}`, 400},
		{"endpoint-too-large", http.MethodPost, "/endpoints", json, `{"url":"https://example.com","description":"` + strings.Repeat("x", 80<<10) + `"}`, 413},
		{"endpoint-media-type", http.MethodPost, "/endpoints", "text/plain", `{"url":"https://example.com"}`, 415},
		{"endpoint-absent", http.MethodGet, "/endpoints/ep_none", "", "", 404},
		{"endpoint-put-absent", http.MethodPut, "/endpoints/ep_none", json, `{"url":"https://example.com"}`, 404},
		{"endpoint-method", http.MethodPatch, "/endpoints", "", "", 405},
		{"event-empty-body", http.MethodPost, "/events", json, "", 400},
		{"event-no-type", http.MethodPost, "/events", json, `{"payload":1}`, 400},
		{"event-bad-type", http.MethodPost, "/events", json, `{"type":"a..b","payload":1}`, 400},
		{"event-wildcard-type", http.MethodPost, "/events", json, `{"type":"order.*","payload":1}`, 400},
		{"event-no-payload", http.MethodPost, "/events", json, `{"type":"a"}`, 400},
		{"event-dotted-id", http.MethodPost, "/events", json, `{"type":"a","payload":1,"id":"a.b"}`, 400},
		{"event-id-with-newline", http.MethodPost, "/events", json, `{"type":"a","payload":1,"id":"a\nb"}`, 400},
		{"event-endless-id", http.MethodPost, "/events", json, `{"type":"a","payload":1,"id":"` + strings.Repeat("x", 129) + `"}`, 400},
		{"event-not-utf8", http.MethodPost, "/events", json, "{\"type\":\"a\",\"payload\":\"\xff\"}", 400},
		{"event-too-large", http.MethodPost, "/events", json, `{"type":"a","payload":"` + strings.Repeat("x", 256<<10) + `"}`, 413},
		{"event-much-too-large", http.MethodPost, "/events", json, `{"type":"a","payload":"` + strings.Repeat("x", 1<<20) + `"}`, 413},
		{"event-method", http.MethodGet, "/events", "", "", 405},
		{"delivery-absent", http.MethodGet, "/deliveries/dlv_none", "", "", 404},
		{"delivery-hostile-id", http.MethodGet, "/deliveries/%00%ff'--", "", "", 404},
		{"delivery-retry-absent", http.MethodPost, "/deliveries/dlv_none/retry", "", "", 404},
		{"deliveries-bad-limit", http.MethodGet, "/deliveries?limit=0", "", "", 400},
		{"deliveries-bad-cursor", http.MethodGet, "/deliveries?cursor=x", "", "", 400},
		{"deliveries-negative-cursor", http.MethodGet, "/deliveries?cursor=-1", "", "", 400},
		{"deliveries-bad-state", http.MethodGet, "/deliveries?state=lost", "", "", 400},
		{"received-bad-limit", http.MethodGet, "/received?limit=1001", "", "", 400},
		{"received-method", http.MethodPost, "/received", "", "", 405},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, header, body := x.raw(t, tt.method, tt.path, tt.contentType, tt.body)
			if got != tt.want {
				t.Fatalf("got %d %s, want %d", got, body, tt.want)
			}
			if !isProblem(header, body, tt.want) {
				t.Errorf("got %s, want a problem document", body)
			}
			if tt.want == http.StatusMethodNotAllowed && header.Get("Allow") == "" {
				t.Error("a 405 without Allow")
			}
		})
	}
}
