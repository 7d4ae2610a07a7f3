package problem

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func write(method string, err error) *http.Response {
	r := httptest.NewRequest(method, "/", nil)
	r = r.WithContext(WithRequestID(r.Context(), "00000000-0000-4000-8000-000000000001"))
	w := httptest.NewRecorder()
	Write(w, r, err)
	return w.Result()
}

func TestTable(t *testing.T) {
	types := map[string]Code{}
	for code, e := range table {
		if other, ok := types[e.typ]; ok {
			t.Errorf("%s and %s have the type %s", code, other, e.typ)
		}
		types[e.typ] = code
		if e.status < 400 || e.status > 599 || e.title == "" || !strings.HasPrefix(e.typ, "https://") {
			t.Errorf("%s: the entry is not complete: %+v", code, e)
		}
	}
	for status, code := range byStatus {
		if code.Status() != status {
			t.Errorf("status %d stands for %s, whose status is %d", status, code, code.Status())
		}
	}
}

func TestWrite(t *testing.T) {
	err := &Error{
		Code: QuotaExceeded, Detail: "Too many.", Extra: map[string]any{"violated-policies": []string{"minute"}},
		RetryAfter: 1100 * time.Millisecond, Header: http.Header{"X-A": {"b"}}, Cause: errors.New("the cause"),
	}
	resp := write(http.MethodGet, fmt.Errorf("wrapped: %w", err))
	b, _ := io.ReadAll(resp.Body)
	var got map[string]any
	if e := json.Unmarshal(b, &got); e != nil {
		t.Fatal(e)
	}
	want := map[string]any{
		"type":  "https://iana.org/assignments/http-problem-types#quota-exceeded",
		"title": "Request cannot be satisfied as assigned quota has been exceeded", "status": 429.0, "detail": "Too many.",
		"instance": "urn:uuid:00000000-0000-4000-8000-000000000001", "violated-policies": []any{"minute"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("document (-want +got):\n%s", diff)
	}
	wantHeader := http.Header{
		"Content-Type": {"application/problem+json"}, "Content-Length": {fmt.Sprint(len(b))}, "Retry-After": {"2"},
		"Cache-Control": {"no-store"}, "X-A": {"b"},
	}
	if diff := cmp.Diff(wantHeader, resp.Header); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
	if strings.Contains(string(b), "the cause") {
		t.Error("the private cause was sent")
	}
}

func TestWriteHeadHasNoBody(t *testing.T) {
	resp := write(http.MethodHead, New(NotFound, "x"))
	if b, _ := io.ReadAll(resp.Body); len(b) != 0 || resp.Header.Get("Content-Length") == "0" {
		t.Errorf("got body %q and length %s, want none and the length of GET", b, resp.Header.Get("Content-Length"))
	}
}

func TestFrom(t *testing.T) {
	for name, tc := range map[string]struct {
		err  error
		want Code
	}{
		"ours":       {New(LockHeld, ""), LockHeld},
		"too-large":  {fmt.Errorf("reading: %w", &http.MaxBytesError{Limit: 5}), ContentTooLarge},
		"canceled":   {context.Canceled, ClientClosedRequest},
		"unexpected": {errors.New("password=hunter2"), Internal},
	} {
		t.Run(name, func(t *testing.T) {
			e := From(tc.err)
			if e.Code != tc.want || strings.Contains(fmt.Sprint(e.Document(e.Code.Status(), "")), "hunter2") {
				t.Errorf("got %v", e)
			}
		})
	}
}

func TestForeignStatusKeepsItsOwnPhrase(t *testing.T) {
	doc := FromStatus(418).Document(418, "")
	if doc["type"] != "about:blank" || doc["status"] != 418 || doc["title"] != "I'm a teapot" {
		t.Errorf("got %v", doc)
	}
}
