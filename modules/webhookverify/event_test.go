package webhookverify

import (
	"net/http"
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/internal/signature"
)

func TestLookup(t *testing.T) {
	tests := []struct{ name, body, path, want string }{
		{"member", `{"id":"evt_1"}`, "id", "evt_1"},
		{"nested", `{"data":{"object":{"id":"x"}}}`, "data.object.id", "x"},
		{"array", `[{"sg_event_id":"y"}]`, "0.sg_event_id", "y"},
		{"number", `{"id":17}`, "id", "17"},
		{"large-number", `{"id":12345678901234567890}`, "id", "12345678901234567890"},
		{"escape", `{"id":"a\u0062"}`, "id", "ab"},
		{"last-of-two", `{"id":"a","id":"b"}`, "id", "b"},
		{"case", `{"ID":"a"}`, "id", ""},
		{"absent", `{"other":1}`, "id", ""},
		{"null", `{"id":null}`, "id", ""},
		{"bool", `{"id":true}`, "id", ""},
		{"object", `{"id":{}}`, "id", ""},
		{"index-beyond", `[1]`, "1", ""},
		{"index-negative", `[1]`, "-1", ""},
		{"not-json", `id=1`, "id", ""},
		{"cut-off", `{"id":"a"`, "id", ""},
		{"two-values", `{"id":"a"}{"id":"b"}`, "id", ""},
		{"empty", ``, "id", ""},
		{"deep", strings.Repeat("[", 20000), "0", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := lookup([]byte(tt.body), strings.Split(tt.path, ".")); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func FuzzLookup(f *testing.F) {
	f.Add([]byte(`{"data":[{"id":"x"}]}`), "data.0.id")
	f.Add([]byte(`[[[[`), "0.0.0")
	f.Add([]byte("{\"id\":\"\xff\"}"), "id")
	f.Fuzz(func(t *testing.T, body []byte, path string) {
		finder := finder{path: strings.Split(path, "."), header: "X-Id"}
		if id := finder.id("", http.Header{}, body); !usable(id) {
			t.Fatalf("got an unusable id %q", id)
		}
	})
}

func TestDefaultsOfEventID(t *testing.T) {
	tests := []struct {
		name   string
		scheme *signature.Scheme
		header http.Header
		body   string
		want   string
	}{
		{"stripe-json", signature.Stripe, nil, `{"id":"evt_1"}`, "evt_1"},
		{"github-header", signature.GitHub, http.Header{"X-Github-Delivery": {"g"}}, `{"id":"evt_1"}`, "g"},
		{"timestamped-json-first", signature.Timestamped, http.Header{"X-Webhook-Id": {"h"}}, `{"id":"evt_1"}`, "evt_1"},
		{"timestamped-header", signature.Timestamped, http.Header{"X-Webhook-Id": {"h"}}, `{}`, "h"},
		{"none", signature.Stripe, nil, ``, "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, err := newFinder(tt.scheme, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := f.id("", tt.header, []byte(tt.body)); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestEndpoint(t *testing.T) {
	for in, want := range map[string]string{
		"/webhooks/stripe": "/webhooks/stripe", "/Webhooks//Stripe/": "/webhooks/stripe", "": "/", "/a/../b": "/b", "../..": "/",
	} {
		if got := endpoint(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}
