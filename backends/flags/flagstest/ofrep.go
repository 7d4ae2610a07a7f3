package flagstest

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

type result struct {
	Key, Reason, Variant string
	Value                any
	ErrorCode            string `json:"errorCode"`
}

func (e *exam) evaluateFor(t *testing.T, key, user string) result {
	t.Helper()
	body, _ := json.Marshal(map[string]map[string]string{"context": {"targetingKey": user, "email": "x@example.com"}}) //nolint:errchkjson // strings always encode
	var got result
	r := e.want(t, 200, "POST", "/ofrep/v1/evaluate/flags/"+key, string(body))
	r.json(t, &got)
	if ct := r.header.Get("Content-Type"); ct != "application/json" {
		t.Errorf("got media type %s", ct)
	}
	return got
}

func (e *exam) evaluate(t *testing.T) {
	key := e.key(t, "evaluate")
	for _, tt := range []struct {
		flag, user, reason string
		on                 bool
	}{
		{`{"enabled":false,"percentage":100,"allowList":["ann"]}`, "ann", "DISABLED", false},
		{`{"enabled":true,"percentage":0,"allowList":["ann"]}`, "ann", "TARGETING_MATCH", true},
		{`{"enabled":true,"percentage":0,"allowList":["ann"]}`, "bob", "STATIC", false},
		{`{"enabled":true,"percentage":100,"allowList":["ann"],"denyList":["ann"]}`, "ann", "TARGETING_MATCH", false},
		{`{"enabled":true,"percentage":100}`, "ann", "STATIC", true},
	} {
		e.do(t, "PUT", "/flags/"+key, tt.flag)
		got := e.evaluateFor(t, key, tt.user) // on the very next request
		variant := "off"
		if tt.on {
			variant = "on"
		}
		if want := (result{Key: key, Reason: tt.reason, Variant: variant, Value: tt.on}); got != want {
			t.Errorf("%s for %s: got %+v, want %+v", tt.flag, tt.user, got, want)
		}
	}
}

// buckets sets each percentage just at and just above a known bucket.
func (e *exam) buckets(t *testing.T) {
	for _, tt := range []struct {
		flag, user string
		bucket     int
	}{
		{"new-checkout", "user-123", 87}, {"new-checkout", "user-456", 60}, {"new-checkout", "1", 55}, {"new-checkout", "42", 73},
		{"dark-mode", "user-123", 57},
		{"checkout-v2", "alice", 64}, {"checkout-v2", "bob", 56}, {"checkout-v2", "carol", 33},
		{"checkout-v2", "Zoë", 40}, {"checkout-v2", "ユーザー", 11}, {"checkout-v2", "😀", 66},
	} {
		e.clean(t, tt.flag)
		for p, on := range map[int]bool{tt.bucket: false, tt.bucket + 1: true} {
			e.do(t, "PUT", "/flags/"+tt.flag, fmt.Sprintf(`{"enabled":true,"percentage":%d}`, p))
			if got := e.evaluateFor(t, tt.flag, tt.user); got.Value != on || got.Reason != "SPLIT" {
				t.Errorf("%s for %s at %d percent: got %+v, want %v by SPLIT", tt.flag, tt.user, p, got, on)
			}
		}
	}
}

func (e *exam) evaluateAll(t *testing.T) {
	a, b := e.key(t, "all-a"), e.key(t, "all-b")
	e.want(t, 201, "PUT", "/flags/"+a, `{"enabled":true,"percentage":100}`)
	e.want(t, 201, "PUT", "/flags/"+b, `{"enabled":true,"allowList":["ann"]}`)
	const path = "/ofrep/v1/evaluate/flags"
	ann, bob := `{"context":{"targetingKey":"ann"}}`, `{"context":{"targetingKey":"bob"}}`
	results := func(r response) map[string]any {
		var body struct{ Flags []result }
		r.json(t, &body)
		values := map[string]any{}
		for _, f := range body.Flags {
			values[f.Key] = f.Value
		}
		return values
	}
	r := e.want(t, 200, "POST", path, ann)
	if got := results(r); got[a] != true || got[b] != true {
		t.Errorf("for ann: got %v", got)
	}
	etag := r.header.Get("ETag")
	if etag == "" {
		t.Fatal("no ETag")
	}
	if r = e.want(t, 304, "POST", path, ann, "If-None-Match", etag); len(r.body) != 0 {
		t.Errorf("304 with a body: %s", r.body)
	}
	e.want(t, 304, "POST", path, ann, "If-None-Match", "W/"+etag)
	e.want(t, 200, "POST", path, ann, "If-None-Match", `"other"`)
	r = e.want(t, 200, "POST", path, bob, "If-None-Match", etag)
	if got := results(r); got[a] != true || got[b] != false {
		t.Errorf("for bob: got %v", got)
	}
	e.want(t, 200, "PUT", "/flags/"+a, `{"enabled":false}`)
	r = e.want(t, 200, "POST", path, ann, "If-None-Match", etag)
	if got := results(r); got[a] != false || got[b] != true {
		t.Errorf("for ann after a change: got %v", got)
	}
}

func (e *exam) badEvaluations(t *testing.T) {
	key := e.key(t, "bad-evaluations")
	e.want(t, 201, "PUT", "/flags/"+key, `{"enabled":true}`)
	for _, tt := range []struct {
		body, code string
		status     int
	}{
		{``, "PARSE_ERROR", 400},
		{`{`, "PARSE_ERROR", 400},
		{`[]`, "PARSE_ERROR", 400},
		{`null`, "PARSE_ERROR", 400},
		{"{\"context\":{\"targetingKey\":\"\xff\"}}", "PARSE_ERROR", 400},
		{`{}`, "TARGETING_KEY_MISSING", 400},
		{`{"context":null}`, "TARGETING_KEY_MISSING", 400},
		{`{"context":{}}`, "TARGETING_KEY_MISSING", 400},
		{`{"context":{"targetingKey":""}}`, "TARGETING_KEY_MISSING", 400},
		{`{"context":{"targetingKey":null}}`, "TARGETING_KEY_MISSING", 400},
		{`{"context":[]}`, "INVALID_CONTEXT", 400},
		{`{"context":{"targetingKey":7}}`, "INVALID_CONTEXT", 400},
		{`{"context":{"targetingKey":"` + strings.Repeat("x", 1<<20) + `"}}`, "GENERAL", 413},
	} {
		for _, path := range []string{"/" + key, ""} {
			var got result
			r := e.want(t, tt.status, "POST", "/ofrep/v1/evaluate/flags"+path, tt.body)
			r.json(t, &got)
			if got.ErrorCode != tt.code || got.Key != strings.TrimPrefix(path, "/") || r.header.Get("Content-Type") != "application/json" {
				t.Errorf("%.60s: got %s %s, want %s", tt.body, r.header.Get("Content-Type"), r.body, tt.code)
			}
		}
	}
	for _, unknown := range []string{e.run + "none", "NONE", "%22"} {
		var got result
		e.want(t, 404, "POST", "/ofrep/v1/evaluate/flags/"+unknown, `{"context":{"targetingKey":"ann"}}`).json(t, &got)
		if got.ErrorCode != "FLAG_NOT_FOUND" || got.Key == "" {
			t.Errorf("%s: got %+v, want FLAG_NOT_FOUND", unknown, got)
		}
	}
}
