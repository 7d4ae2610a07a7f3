package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

func router(log io.Writer) *Router {
	rt := NewRouter(slog.New(slog.NewTextHandler(log, nil)))
	rt.Handle(http.MethodGet, "/things/{id}", func(w http.ResponseWriter, r *http.Request) error {
		return WriteJSON(w, http.StatusOK, map[string]string{"id": r.PathValue("id")})
	})
	rt.Handle(http.MethodPost, "/things", func(w http.ResponseWriter, r *http.Request) error {
		var v struct {
			Name string `json:"name"`
			N    int    `json:"n"`
		}
		if err := DecodeJSON(w, r, 64, &v); err != nil {
			return err
		}
		if v.Name == "broken" {
			return errors.New("password=hunter2")
		}
		return WriteJSON(w, http.StatusCreated, v)
	})
	return rt
}

func TestRouter(t *testing.T) {
	for name, tc := range map[string]struct {
		method, target, contentType, body string
		status                            int
		want                              string
	}{
		"found":              {"GET", "/things/a%2Fb", "", "", 200, `{"id":"a/b"}`},
		"head-is-get":        {"HEAD", "/things/1", "", "", 200, ""},
		"dot-segments":       {"GET", "/x/..%2fthings/1", "", "", 400, "no empty, . or .. segments"},
		"empty-segment":      {"GET", "/things//1", "", "", 400, "no empty, . or .. segments"},
		"unknown-path":       {"GET", "/nothing", "", "", 404, "not-found"},
		"wrong-method":       {"DELETE", "/things/1", "", "", 405, "method-not-allowed"},
		"odd-method":         {"X\x7f<>", "/things/1", "", "", 405, "method-not-allowed"},
		"options":            {"OPTIONS", "/things", "", "", 204, ""},
		"created":            {"POST", "/things", "application/json; charset=utf-8", `{"name":"x"}`, 201, `"name":"x"`},
		"curl-default-type":  {"POST", "/things", "application/x-www-form-urlencoded", `{"name":"x"}`, 201, `"name":"x"`},
		"not-json-type":      {"POST", "/things", "text/plain", `{}`, 415, "unsupported-media-type"},
		"bad-type":           {"POST", "/things", ";;", `{}`, 415, "unsupported-media-type"},
		"empty":              {"POST", "/things", "", "", 400, "empty or ends"},
		"half":               {"POST", "/things", "", `{"name":`, 400, "empty or ends"},
		"syntax":             {"POST", "/things", "", `{"name":x}`, 400, "at byte 9"},
		"unknown-member":     {"POST", "/things", "", `{"nome":1}`, 400, `nome`},
		"wrong-member-type":  {"POST", "/things", "", `{"n":"1"}`, 400, `n\" must be a whole number, not string`},
		"two-values":         {"POST", "/things", "", `{} {}`, 400, "one JSON value"},
		"not-an-object":      {"POST", "/things", "", `[]`, 400, "The body must be an object, not array"},
		"invalid-utf8":       {"POST", "/things", "", "{\"\xff\":1}", 400, "unknown"},
		"too-large-declared": {"POST", "/things", "", `{"name":"` + strings.Repeat("x", 100) + `"}`, 413, "64 bytes"},
		"ours-goes-wrong":    {"POST", "/things", "", `{"name":"broken"}`, 500, "internal"},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			r := httptest.NewRequest(http.MethodGet, tc.target, strings.NewReader(tc.body))
			r.Method = tc.method
			if tc.contentType != "" {
				r.Header.Set("Content-Type", tc.contentType)
			}
			w := httptest.NewRecorder()
			router(&log).ServeHTTP(w, r)
			if w.Code != tc.status || !strings.Contains(w.Body.String(), tc.want) {
				t.Fatalf("got %d %s, want %d with %q", w.Code, w.Body, tc.status, tc.want)
			}
			if tc.status >= 400 {
				var doc map[string]any
				if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil || w.Header().Get("Content-Type") != "application/problem+json" {
					t.Errorf("not a problem: %s (%v)", w.Body, err)
				}
			}
			if tc.status == 405 && w.Header().Get("Allow") != "GET, HEAD, OPTIONS" {
				t.Errorf("Allow is %q", w.Header().Get("Allow"))
			}
			if strings.Contains(w.Body.String(), "hunter2") {
				t.Error("the cause was sent")
			}
			if (tc.status >= 500) != strings.Contains(log.String(), "request failed") {
				t.Errorf("log: %q", log.String())
			}
		})
	}
}

func TestFailuresAreLoggedNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		rt := NewRouter(slog.New(slog.NewTextHandler(&log, nil)))
		fail := func(n int, err error) (lines int) {
			log.Reset()
			for range n {
				rt.Fail(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil), err)
			}
			return strings.Count(log.String(), "request failed")
		}
		shed := problem.New(problem.Unavailable, "Too many.")
		if n := fail(100, shed); n != 5 {
			t.Errorf("got %d lines at once, want 5", n)
		}
		<-time.After(time.Second + time.Millisecond)
		if n := fail(100, shed); n != 1 || !strings.Contains(log.String(), "times=96") {
			t.Errorf("got %d lines after a second, want one with times=96: %s", n, &log)
		}
		if n := fail(1, errors.New("broken")); n != 1 || !strings.Contains(log.String(), "times=1") {
			t.Errorf("another failure: got %s", &log)
		}
	})
}

func TestBodyWithoutLengthIsCapped(t *testing.T) {
	r := httptest.NewRequest(http.MethodPost, "/things", io.MultiReader(strings.NewReader(`{"name":"`), strings.NewReader(strings.Repeat("x", 100))))
	w := httptest.NewRecorder()
	router(io.Discard).ServeHTTP(w, r)
	if w.Code != http.StatusRequestEntityTooLarge {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}

func TestPageOf(t *testing.T) {
	for target, want := range map[string]int{"/": 50, "/?limit=1": 1, "/?limit=1000&cursor=abc": 1000} {
		if limit, _, err := PageOf(httptest.NewRequest(http.MethodGet, target, nil)); err != nil || limit != want {
			t.Errorf("%s: got %d, %v", target, limit, err)
		}
	}
	for _, target := range []string{"/?limit=0", "/?limit=1001", "/?limit=x", "/?cursor=" + strings.Repeat("x", 300)} {
		if _, _, err := PageOf(httptest.NewRequest(http.MethodGet, target, nil)); problem.From(err).Code != problem.InvalidRequest {
			t.Errorf("%s: got %v", target, err)
		}
	}
}

func FuzzUnmarshalStrict(f *testing.F) {
	for _, s := range []string{`{"name":"x"}`, `{`, "", "null", `{"a":1}`, "\xff", `{"name":"\ud800"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var v struct {
			Name string `json:"name"`
		}
		if err := UnmarshalStrict(b, &v); err != nil && problem.From(err).Code.Status() != http.StatusBadRequest {
			t.Errorf("%q became %v", b, err)
		}
	})
}
