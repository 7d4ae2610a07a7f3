package objects_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/objects"
	"github.com/gatehouse-proxy/gatehouse/internal/secret"
)

// aws are the credentials of the published examples.
func aws() objects.Keys {
	return objects.Keys{AccessKey: "AKIAIOSFODNN7EXAMPLE", Region: "us-east-1", Secrets: secretSet("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")}
}

func secretSet(values ...string) *secret.Set {
	versions := make([]secret.Version, len(values))
	for i, v := range values {
		versions[i] = secret.Version{Label: v[:1], Value: secret.NewValue([]byte(v))}
	}
	return secret.NewSet("objects", versions...)
}

func mustURL(t testing.TB, raw string) *url.URL {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestPresignMatchesTheVectors(t *testing.T) {
	tests := []struct {
		name, method, url string
		at                time.Time
		ttl               time.Duration
		header            http.Header
		want              string
	}{
		{
			"published-get", http.MethodGet, "https://examplebucket.s3.amazonaws.com/test.txt",
			time.Date(2013, 5, 24, 0, 0, 0, 0, time.UTC), 24 * time.Hour, nil,
			"aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404",
		},
		{
			"put-with-signed-headers", http.MethodPut,
			"https://examplebucket.s3.us-east-1.amazonaws.com/uploads/u1/f.txt?X-Amz-Content-Sha256=UNSIGNED-PAYLOAD",
			time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), 15 * time.Minute,
			http.Header{"Content-Length": {"5"}, "Content-Type": {"text/plain"}, "If-None-Match": {"*"}},
			"506adec4220dfeab699cf26c108a7d3c9df77dfdc6e137cfe007c9af57aab208",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			signed := mustURL(t, aws().Presign(tt.at, tt.method, mustURL(t, tt.url), tt.header, tt.ttl))
			if got := signed.Query().Get("X-Amz-Signature"); got != tt.want {
				t.Errorf("signature %s, want %s", got, tt.want)
			}
			r := httptest.NewRequest(tt.method, signed.String(), strings.NewReader("12345"))
			for name, v := range tt.header {
				r.Header[name] = v
			}
			if err := aws().Verify(r, tt.at); err != nil {
				t.Errorf("Verify: %v", err)
			}
		})
	}
}

func TestVerify(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	header := http.Header{"Content-Length": {"5"}, "Content-Type": {"text/plain"}, "If-None-Match": {"*"}}
	target := "http://gw.example:8080/uploads/objects/a%20b/%C3%BC+%7E!.txt"
	const mismatch, expired = "SignatureDoesNotMatch", "AccessDenied: Request has expired"
	sub := func(old, new string) func(r *http.Request) {
		return func(r *http.Request) { r.URL.RawQuery = strings.Replace(r.URL.RawQuery, old, new, 1) }
	}
	tests := []struct {
		name   string
		change func(r *http.Request)
		at     time.Duration
		want   string // a prefix of the error; empty if accepted
	}{
		{"as-signed", func(*http.Request) {}, 0, ""},
		{"last-second", func(*http.Request) {}, time.Minute, ""},
		{"expired", func(*http.Request) {}, time.Minute + time.Second, expired},
		{"signer-clock-ahead", func(*http.Request) {}, -14 * time.Minute, ""},
		{"signer-clock-too-far-ahead", func(*http.Request) {}, -16 * time.Minute, "AccessDenied: Request is not valid yet"},
		{"other-length", func(r *http.Request) { r.ContentLength = 6 }, 0, mismatch},
		{"other-type", func(r *http.Request) { r.Header.Set("Content-Type", "text/html") }, 0, mismatch},
		{"no-type", func(r *http.Request) { r.Header.Del("Content-Type") }, 0, mismatch},
		{"second-type", func(r *http.Request) { r.Header.Add("Content-Type", "text/html") }, 0, mismatch},
		{"no-condition", func(r *http.Request) { r.Header.Del("If-None-Match") }, 0, mismatch},
		{"other-host", func(r *http.Request) { r.Host = "other.example" }, 0, mismatch},
		{"other-method", func(r *http.Request) { r.Method = http.MethodGet }, 0, mismatch},
		{"other-path", func(r *http.Request) { r.URL.Path += "x" }, 0, mismatch},
		{"dot-segments", func(r *http.Request) { r.URL.Path = strings.Replace(r.URL.Path, "/objects/", "/objects/x/../", 1) }, 0, mismatch},
		{"more-life", sub("X-Amz-Expires=60", "X-Amz-Expires=61"), 0, mismatch},
		{"later-date", sub("20260101T000000Z", "20260101T000001Z"), 0, mismatch},
		{"fewer-signed-headers", sub("content-type%3B", ""), 0, mismatch},
		{"extra-parameter", sub("X-Amz-Algorithm", "uploads=&X-Amz-Algorithm"), 0, mismatch},
		{"extra-header", func(r *http.Request) { r.Header.Set("Accept", "*/*") }, 0, ""},
		{"extra-amz-header", func(r *http.Request) { r.Header.Set("X-Amz-Acl", "public-read") }, 0, "AccessDenied"},
		{"broken-signature", sub("X-Amz-Signature=", "X-Amz-Signature=0"), 0, mismatch},
		{"two-signatures", func(r *http.Request) { r.URL.RawQuery += "&X-Amz-Signature=00" }, 0, "AuthorizationQueryParametersError"},
		{"no-query", func(r *http.Request) { r.URL.RawQuery = "" }, 0, "AccessDenied"},
		{"bad-escape", func(r *http.Request) { r.URL.RawQuery += "&%zz" }, 0, "AuthorizationQueryParametersError"},
		{"semicolon", func(r *http.Request) { r.URL.RawQuery += ";a=b" }, 0, "AuthorizationQueryParametersError"},
		{"huge-query", func(r *http.Request) { r.URL.RawQuery += "&" + strings.Repeat("a", 20000) }, 0, "AuthorizationQueryParametersError"},
		{"no-expiry", sub("X-Amz-Expires=60", "X-Amz-Expires=0"), 0, "AuthorizationQueryParametersError"},
		{"eight-days", sub("X-Amz-Expires=60", "X-Amz-Expires=691200"), 0, "AuthorizationQueryParametersError"},
		{"short-date", sub("X-Amz-Date=20260101T000000Z", "X-Amz-Date=2026"), 0, "AuthorizationQueryParametersError"},
		{"other-region", sub("us-east-1", "eu-west-1"), 0, "AuthorizationQueryParametersError"},
		{"other-key", sub("AKIAIOSFODNN7EXAMPLE", "someone"), 0, "InvalidAccessKeyId"},
		{"other-algorithm", sub("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA1"), 0, "AuthorizationQueryParametersError"},
		{"host-not-signed", sub("host", "accept"), 0, "AuthorizationQueryParametersError"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			signed := aws().Presign(at, http.MethodPut, mustURL(t, target), header, time.Minute)
			r := httptest.NewRequest(http.MethodPut, signed, strings.NewReader("12345"))
			r.Header = header.Clone()
			tt.change(r)
			err := aws().Verify(r, at.Add(tt.at))
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("got %v, want it accepted", err)
			case tt.want != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.want)):
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

func TestEverySecretVerifiesTheNewestSigns(t *testing.T) {
	now := time.Now()
	old, both := aws(), aws()
	old.Secrets, both.Secrets = secretSet("old"), secretSet("new", "old")
	u := mustURL(t, "http://gw.example/uploads/objects/a")
	for name, k := range map[string]objects.Keys{"signed-by-old": old, "signed-by-newest": both} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, k.Presign(now, http.MethodGet, u, nil, time.Minute), nil)
			if err := both.Verify(r, now); err != nil {
				t.Errorf("Verify with both: %v", err)
			}
			if err := old.Verify(r, now); (err == nil) != (name == "signed-by-old") {
				t.Errorf("Verify with the old secret alone: %v", err)
			}
		})
	}
}

func FuzzVerify(f *testing.F) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	signed, err := url.Parse(aws().Presign(at, http.MethodGet, &url.URL{Scheme: "http", Host: "h", Path: "/uploads/objects/a"}, nil, time.Minute))
	if err != nil {
		f.Fatal(err)
	}
	good := signed.Query().Get("X-Amz-Signature")
	f.Add("GET", "h", "/uploads/objects/a", signed.RawQuery, "", "")
	f.Add("PUT", "h", "/uploads/objects/../a", signed.RawQuery, "X-Amz-Acl", "x")
	f.Add("GET", "", "", "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date=&X-Amz-Credential=/&X-Amz-Expires=-1&X-Amz-SignedHeaders=;;host&X-Amz-Signature=", "\xff", "\x00")
	f.Fuzz(func(t *testing.T, method, host, path, query, name, value string) {
		r := &http.Request{Method: method, Host: host, URL: &url.URL{Path: path, RawQuery: query}, Header: http.Header{name: {value}}, ContentLength: -1}
		err := aws().Verify(r, at)
		if err != nil && (err.Status < 400 || err.Status > 501) {
			t.Errorf("status %d", err.Status)
		}
		// The fuzzer has no key: all it can have accepted is the one signature that it was given.
		if err == nil && r.URL.Query().Get("X-Amz-Signature") != good {
			t.Errorf("accepted %s %s%s?%s", method, host, path, query)
		}
	})
}
