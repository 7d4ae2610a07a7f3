package webhookverify

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/signature"
	_ "github.com/gatehouse-proxy/gatehouse/modules/guard"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
)

func TestGolden(t *testing.T) { modtest.Golden(t, "testdata") }

const standardSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

var secretOf = map[*signature.Scheme]string{
	signature.GitHub: "It's a Secret to Everybody", signature.Standard: standardSecret,
	signature.Stripe: "whsec_test_secret", signature.Timestamped: "test-secret",
}

// start serves one webhook_verify with the secrets one and two, of which one is the scheme's own.
func start(t *testing.T, scheme *signature.Scheme, options, global string, next string) *modtest.Gateway {
	t.Helper()
	g, err := tryStart(t, scheme, options, global, next)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func tryStart(t *testing.T, scheme *signature.Scheme, options, global, next string) (*modtest.Gateway, error) {
	t.Helper()
	dir := t.TempDir()
	writeSecret(t, dir, "one", secretOf[scheme])
	writeSecret(t, dir, "two", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")
	return modtest.StartIn(t, dir, fmt.Sprintf(`{
	gatehouse {
		data_dir @@data@@
		secret one file @@data@@/one
		secret two file @@data@@/two
		%s
	}
}
:80 {
	webhook_verify %s {
		secret one
		%s
	}
	%s
}
`, global, scheme.Name, options, cmp.Or(next, "respond 204")))
}

func writeSecret(t *testing.T, dir, name, value string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(value+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// signed is a request as the scheme's sender makes it.
func signed(t *testing.T, scheme *signature.Scheme, id, body string, at time.Time, secret string) *http.Request {
	t.Helper()
	key, err := scheme.ParseKey([]byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodPost, "/hooks", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	scheme.Sign(r.Header, id, at, []byte(body), key)
	return r
}

func problemOf(t *testing.T, resp *http.Response) (typ, detail string) {
	t.Helper()
	var doc struct{ Type, Detail string }
	if err := json.NewDecoder(resp.Body).Decode(&doc); err != nil {
		t.Fatalf("status %d: the body is no problem: %v", resp.StatusCode, err)
	}
	return doc.Type[strings.LastIndexByte(doc.Type, '/')+1:], doc.Detail
}

func TestGenuineIsPassedOn(t *testing.T) {
	for _, scheme := range signature.Schemes {
		t.Run(scheme.Name, func(t *testing.T) {
			g := start(t, scheme, "", "", `respond "{http.webhook_verify.scheme} {http.webhook_verify.id}"`)
			r := signed(t, scheme, "msg_1", `{"id":"evt_1"}`, time.Now(), secretOf[scheme])
			want := scheme.Name + " evt_1"
			switch scheme {
			case signature.GitHub:
				r.Header.Set("X-GitHub-Delivery", "guid-1")
				want = "github guid-1"
			case signature.Standard:
				want = "standard msg_1"
			}
			resp := g.Do(r)
			got, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != http.StatusOK || string(got) != want {
				t.Errorf("got %d %q, want 200 %q", resp.StatusCode, got, want)
			}
		})
	}
}

func TestNotGenuineIs401(t *testing.T) {
	const body = `{"id":"evt_1"}`
	for _, scheme := range signature.Schemes {
		g := start(t, scheme, "", "", "")
		own := secretOf[scheme]
		forged := signed(t, scheme, "msg_1", body, time.Now(), own)
		forged.Body = io.NopCloser(strings.NewReader(strings.Replace(body, "1", "2", 1)))
		requests := map[string]*http.Request{
			"forged":        forged,
			"unsigned":      httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body)),
			"other-secret":  signed(t, scheme, "msg_1", body, time.Now(), "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"),
			"empty-body":    httptest.NewRequest(http.MethodPost, "/", nil),
			"replayed-old":  signed(t, scheme, "msg_1", body, time.Now().Add(-6*time.Minute), own),
			"future":        signed(t, scheme, "msg_1", body, time.Now().Add(6*time.Minute), own),
			"one-byte-more": signed(t, scheme, "msg_1", body, time.Now(), own),
		}
		requests["one-byte-more"].Body = io.NopCloser(strings.NewReader(body + "\n"))
		requests["one-byte-more"].ContentLength++
		if !scheme.Timed {
			delete(requests, "replayed-old")
			delete(requests, "future")
		}
		for name, r := range requests {
			t.Run(scheme.Name+"-"+name, func(t *testing.T) {
				resp := g.Do(r)
				if resp.StatusCode != http.StatusUnauthorized {
					t.Fatalf("got %d, want 401", resp.StatusCode)
				}
				typ, detail := problemOf(t, resp)
				if typ != "invalid-signature" || !strings.HasSuffix(detail, ".") {
					t.Errorf("got %s %q, want invalid-signature and a sentence", typ, detail)
				}
				if resp.Header.Get("Cache-Control") != "no-store" {
					t.Errorf("the refusal may be cached")
				}
			})
		}
	}
}

func TestEveryCauseHasItsSentence(t *testing.T) {
	const body = `{"id":"evt_1"}`
	g := start(t, signature.Stripe, "", "", "")
	seen := map[string]string{}
	noTime := signed(t, signature.Stripe, "", body, time.Now(), secretOf[signature.Stripe])
	noTime.Header.Set("Stripe-Signature", "v1=00")
	for name, r := range map[string]*http.Request{
		"missing":   httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body)),
		"malformed": noTime,
		"old":       signed(t, signature.Stripe, "", body, time.Now().Add(-time.Hour), secretOf[signature.Stripe]),
		"future":    signed(t, signature.Stripe, "", body, time.Now().Add(time.Hour), secretOf[signature.Stripe]),
		"mismatch":  signed(t, signature.Stripe, "", body, time.Now(), "another"),
	} {
		_, detail := problemOf(t, g.Do(r))
		if other, ok := seen[detail]; ok || detail == "" {
			t.Errorf("%s and %s have the same sentence %q", name, other, detail)
		}
		seen[detail] = name
	}
}

func TestTolerance(t *testing.T) {
	g := start(t, signature.Stripe, "tolerance 1h", "", "")
	r := signed(t, signature.Stripe, "", "{}", time.Now().Add(-59*time.Minute), secretOf[signature.Stripe])
	if got := g.Do(r).StatusCode; got != http.StatusNoContent {
		t.Errorf("got %d, want 204", got)
	}
}

func TestSeveralSecrets(t *testing.T) {
	g := start(t, signature.Standard, "secret two", "", "")
	for _, secret := range []string{standardSecret, "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"} {
		if got := g.Do(signed(t, signature.Standard, "msg_1", "{}", time.Now(), secret)).StatusCode; got != http.StatusNoContent {
			t.Errorf("got %d, want 204", got)
		}
	}
	if got := g.Do(signed(t, signature.Standard, "msg_1", "{}", time.Now(), "whsec_AAAAsBQIhrscChlQIMV+b5sSYspob7oD")).StatusCode; got != http.StatusUnauthorized {
		t.Errorf("got %d, want 401", got)
	}
}

// TestRawBytes: the app gets the bytes that were signed, with their length, not a re-encoding.
func TestRawBytes(t *testing.T) {
	const body = `{"name":"Zoë ☃","n":1.0}` + "\n"
	var got *http.Request
	var gotBody []byte
	app := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got = r
		gotBody, _ = io.ReadAll(r.Body)
	}))
	defer app.Close()
	g := start(t, signature.Timestamped, "", "", "reverse_proxy "+app.Listener.Addr().String())
	front := httptest.NewServer(g)
	defer front.Close()

	for _, chunked := range []bool{false, true} {
		signedRequest := signed(t, signature.Timestamped, "", body, time.Now(), secretOf[signature.Timestamped])
		var reader io.Reader = strings.NewReader(body)
		if chunked {
			reader = io.MultiReader(reader)
		}
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, front.URL+"/hooks", reader)
		if err != nil {
			t.Fatal(err)
		}
		r.Header = signedRequest.Header
		resp, err := front.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("chunked %v: got %d, want 200", chunked, resp.StatusCode)
		}
		if string(gotBody) != body || got.ContentLength != int64(len(body)) {
			t.Errorf("chunked %v: got %q of length %d, want %q of length %d", chunked, gotBody, got.ContentLength, body, len(body))
		}
	}
}

func TestBodyLimits(t *testing.T) {
	g := start(t, signature.GitHub, "max_body 16B", "", "")
	own := secretOf[signature.GitHub]
	if got := g.Do(signed(t, signature.GitHub, "", strings.Repeat("x", 16), time.Now(), own)).StatusCode; got != http.StatusNoContent {
		t.Errorf("at the limit: got %d, want 204", got)
	}
	for _, known := range []bool{true, false} {
		r := signed(t, signature.GitHub, "", strings.Repeat("x", 17), time.Now(), own)
		if !known {
			r.ContentLength = -1
		}
		resp := g.Do(r)
		if resp.StatusCode != http.StatusRequestEntityTooLarge {
			t.Fatalf("length known %v: got %d, want 413", known, resp.StatusCode)
		}
		if typ, _ := problemOf(t, resp); typ != "content-too-large" {
			t.Errorf("got %s, want content-too-large", typ)
		}
	}
	r := signed(t, signature.GitHub, "", "x", time.Now(), own)
	r.Body = io.NopCloser(io.MultiReader(strings.NewReader("x"), brokenReader{}))
	if got := g.Do(r).StatusCode; got != http.StatusBadRequest {
		t.Errorf("unreadable: got %d, want 400", got)
	}
}

func TestOneMebibyteByDefault(t *testing.T) {
	g := start(t, signature.GitHub, "", "", "")
	own := secretOf[signature.GitHub]
	body := string(bytes.Repeat([]byte{'x'}, 1<<20))
	if got := g.Do(signed(t, signature.GitHub, "", body, time.Now(), own)).StatusCode; got != http.StatusNoContent {
		t.Errorf("1 MiB: got %d, want 204", got)
	}
	if got := g.Do(signed(t, signature.GitHub, "", body+"x", time.Now(), own)).StatusCode; got != http.StatusRequestEntityTooLarge {
		t.Errorf("one byte more: got %d, want 413", got)
	}
}

// TestSmallerCapOfRequestBody: Caddy's own cap in front is 413 as well.
func TestSmallerCapOfRequestBody(t *testing.T) {
	g := start(t, signature.GitHub, "", "", "request_body {\n\t\tmax_size 4\n\t}\n\trespond 204")
	r := signed(t, signature.GitHub, "", "12345", time.Now(), secretOf[signature.GitHub])
	r.ContentLength = -1
	if got := g.Do(r).StatusCode; got != http.StatusRequestEntityTooLarge {
		t.Errorf("got %d, want 413", got)
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errors.New("broken") }

func TestOtherMethods(t *testing.T) {
	g := start(t, signature.GitHub, "", "", "")
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPut, http.MethodOptions, http.MethodDelete} {
		resp := g.Do(httptest.NewRequest(method, "/hooks", nil))
		if resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Allow") != "POST" {
			t.Errorf("%s: got %d, Allow %q, want 405, POST", method, resp.StatusCode, resp.Header.Get("Allow"))
		}
	}
}

func TestErrorRouteHasItsSay(t *testing.T) {
	g := start(t, signature.GitHub, "", "", "respond 204\n\thandle_errors {\n\t\trespond \"own page {err.status_code}\"\n\t}")
	resp := g.Do(httptest.NewRequest(http.MethodPost, "/", strings.NewReader("x")))
	if got, _ := io.ReadAll(resp.Body); string(got) != "own page 401" {
		t.Errorf("got %q, want the page of the error route", got)
	}
}

func TestBadSecretsAreRefused(t *testing.T) {
	dir := t.TempDir()
	writeSecret(t, dir, "bad", "not base64 at all!")
	writeSecret(t, dir, "prefix", "whsec_")
	if err := os.WriteFile(filepath.Join(dir, "empty"), []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"bad":     "secret bad for webhook_verify standard: the secret is not base64",
		"prefix":  "secret prefix for webhook_verify standard: the secret is empty",
		"empty":   "is empty",
		"unknown": "no secret is configured, unknown is needed",
	} {
		global := "secret " + name + " file @@data@@/" + name
		if name == "unknown" {
			global = ""
		}
		_, err := modtest.StartIn(t, dir, fmt.Sprintf("{\n\tgatehouse {\n\t\tdata_dir @@data@@\n\t\t%s\n\t}\n}\n:80 {\n\twebhook_verify standard {\n\t\tsecret %s\n\t}\n}\n", global, name))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want an error with %q", name, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "not base64 at all!") {
			t.Errorf("the error holds the secret: %v", err)
		}
	}
}
