package aws

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/secret"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

// adding puts a value before the others, which go on for a day.
func adding(value string) func([]secret.Version) ([]secret.Version, error) {
	return func(old []secret.Version) ([]secret.Version, error) {
		next := []secret.Version{{Label: "label of " + value, Value: secret.NewValue([]byte(value))}}
		for _, v := range old {
			if v.RetireAt.IsZero() {
				v.RetireAt = start.Add(24 * time.Hour)
			}
			next = append(next, v)
		}
		return next, nil
	}
}

func TestChange(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*double, *Config)
		want   string
	}{
		"string": {func(*double, *Config) {}, "label of three=three; aws:prod/jwt#v2=two until +24h0m0s; "},
		"binary": {func(d *double, _ *Config) {
			s := d.stages[current]
			delete(s, "SecretString")
			s["SecretBinary"] = base64.StdEncoding.EncodeToString([]byte("two"))
		}, "label of three=three; aws:prod/jwt#v2=two until +24h0m0s; "},
		"document": {func(d *double, _ *Config) {
			d.put(current, "v2", `{"versions":[{"label":"b","value":"2"},{"label":"a","value":"1","retire_at":"2026-11-01T13:00:00Z"}]}`, start)
		}, "label of three=three; b=2 until +24h0m0s; a=1 until +1h0m0s; "},
		"field": {func(d *double, c *Config) {
			d.put(current, "v2", `{"key":"2","n":12345678901234567890,"html":"<&>","deep":{"a":[null]}}`, start)
			c.Field = "key"
		}, "label of three=three; aws:prod/jwt#v2=2 until +24h0m0s; "},
		"field-of-json": {func(d *double, c *Config) {
			d.put(current, "v2", `{"key":{"versions":[{"label":"b","value":"2"}]},"n":12345678901234567890,"html":"<&>","deep":{"a":[null]}}`, start)
			c.Field = "key"
		}, "label of three=three; b=2 until +24h0m0s; "},
		// AWS keeps one version before: what verifies besides must not be forgotten.
		"overlap": {func(_ *double, c *Config) { c.Overlap = unit.Duration(24 * time.Hour) },
			"label of three=three; aws:prod/jwt#v2=two until +24h0m0s; aws:prod/jwt#v1=one until +23h0m0s; "},
		"long-name": {func(d *double, _ *Config) { d.stages[current]["Name"] = strings.Repeat("n", 500) + "/jwt" },
			"label of three=three; aws:" + strings.Repeat("n", 46) + "/jwt#v2=two until +24h0m0s; "},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDouble(t)
			d.put(previous, "v1", "one", start.Add(-90*24*time.Hour))
			d.put(current, "v2", "two", start.Add(-time.Hour))
			c := Config{SecretID: "prod/jwt", Region: "eu-west-1", Endpoint: d.url}
			tc.change(d, &c)
			s := opened(t, c)
			if err := s.Change(t.Context(), adding("three")); err != nil {
				t.Fatal(err)
			}
			got, err := s.Fetch(t.Context())
			if err != nil || show(got) != tc.want {
				t.Errorf("got %s, %v, want %s", show(got), err, tc.want)
			}
			if d.stages[previous]["VersionId"] != "v2" {
				t.Errorf("the version before is %v", d.stages[previous]["VersionId"])
			}
			if c.Field == "" {
				return
			}
			var fields map[string]json.RawMessage
			if err = json.Unmarshal([]byte(d.stages[current]["SecretString"].(string)), &fields); err != nil {
				t.Fatal(err)
			}
			if len(fields) != 4 || string(fields["n"]) != "12345678901234567890" || string(fields["html"]) != `"<&>"` || string(fields["deep"]) != `{"a":[null]}` {
				t.Errorf("the other fields are %s", fields)
			}
		})
	}
}

func TestAChangeThatFails(t *testing.T) {
	errNone := errors.New("none can be made")
	refusing := func(action, code string) func(*double) {
		return func(d *double) {
			d.answer = func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.Header.Get("X-Amz-Target"), "."+action) {
					fail(w, http.StatusBadRequest, code, "sesame")
					return
				}
				d.serve(w, r)
			}
		}
	}
	for name, tc := range map[string]struct {
		change func(d *double)
		by     func(d *double, old []secret.Version) ([]secret.Version, error)
		want   string
	}{
		"denied":      {refusing("PutSecretValue", "AccessDeniedException"), nil, "writing prod/jwt to AWS Secrets Manager: AccessDeniedException: the credentials may not write it: allow them secretsmanager:PutSecretValue and secretsmanager:UpdateSecretVersionStage on it"},
		"denied-move": {refusing("UpdateSecretVersionStage", "AccessDeniedException"), nil, "allow them secretsmanager:PutSecretValue and secretsmanager:UpdateSecretVersionStage on it, and kms:GenerateDataKey and kms:Decrypt on its key; nothing has changed"},
		"key":         {refusing("PutSecretValue", "EncryptionFailure"), nil, "kms:GenerateDataKey"},
		"replica":     {refusing("PutSecretValue", "InvalidRequestException"), nil, "rotate it in its own region"},
		"limit":       {refusing("PutSecretValue", "LimitExceededException"), nil, "too many versions"},
		"failure":     {refusing("PutSecretValue", "InternalServiceError"), nil, "the service has failed"},
		"another-was-faster": {nil, func(d *double, old []secret.Version) ([]secret.Version, error) {
			d.put(previous, "v2", "sesame", start)
			d.put(current, "v3", "theirs", start)
			return adding("three")(old)
		}, "another has changed prod/jwt in AWS Secrets Manager meanwhile, and that change stays: look at it with gatehouse secrets status, and try again"},
		"none-is-made": {nil, func(*double, []secret.Version) ([]secret.Version, error) { return nil, errNone }, "none can be made"},
		"too-large": {nil, func(_ *double, old []secret.Version) ([]secret.Version, error) {
			return adding(strings.Repeat("sesame", 12000))(old)
		}, "the versions would have more than 64 KiB"},
		"no-text": {func(d *double) {
			s := d.stages[current]
			delete(s, "SecretString")
			s["SecretBinary"] = base64.StdEncoding.EncodeToString([]byte("\xffsesame"))
		}, nil, "is no text, which a versions document cannot hold: write the new value by hand"},
		"put-is-cut": {func(d *double) { d.cut["PutSecretValue"] = 1 }, nil, "it cannot be reached, check region, endpoint and network: EOF; nothing has changed"},
		"no-answer-at-all": {nil, func(d *double, old []secret.Version) ([]secret.Version, error) {
			refusing("GetSecretValue", "InternalServiceError")(d)
			d.cut["UpdateSecretVersionStage"] = 1
			return adding("three")(old)
		}, "whether it is that is not known"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDouble(t)
			d.put(current, "v2", "sesame", start)
			if tc.change != nil {
				tc.change(d)
			}
			err := opened(t, Config{SecretID: "prod/jwt", Region: "eu-west-1", Endpoint: d.url}).Change(t.Context(), func(old []secret.Version) ([]secret.Version, error) {
				if tc.by != nil {
					return tc.by(d, old)
				}
				return adding("three")(old)
			})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want %q", err, tc.want)
			}
			if strings.Contains(err.Error(), "sesame") {
				t.Errorf("the error holds a secret: %v", err)
			}
			d.mu.Lock() // an answer that is cut off orders nothing
			defer d.mu.Unlock()
			if now := d.stages[current]["VersionId"]; now != "v2" && now != "v3" && name != "no-answer-at-all" {
				t.Errorf("the current version is %v", now)
			}
		})
	}
}

func TestAChangeWhoseAnswerIsLost(t *testing.T) {
	for name, tc := range map[string]struct {
		attempts string
		cut      map[string]int
		calls    []string
	}{
		"move": {"1", map[string]int{"UpdateSecretVersionStage": 1}, []string{"GetSecretValue", "PutSecretValue", "UpdateSecretVersionStage", "GetSecretValue"}},
		// The second move finds that the version is the current one already, which AWS may refuse.
		"tried-again": {"2", map[string]int{"PutSecretValue": 1, "UpdateSecretVersionStage": 1},
			[]string{"GetSecretValue", "PutSecretValue", "PutSecretValue", "UpdateSecretVersionStage", "UpdateSecretVersionStage", "GetSecretValue"}},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDouble(t)
			t.Setenv("AWS_MAX_ATTEMPTS", tc.attempts)
			d.put(current, "v2", "two", start)
			d.cut = tc.cut
			s := opened(t, Config{SecretID: "prod/jwt", Region: "eu-west-1", Endpoint: d.url})
			if err := s.Change(t.Context(), adding("three")); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(d.calls, tc.calls) || len(d.versions) != 1 {
				t.Errorf("the calls are %q, and there are %d new versions", d.calls, len(d.versions))
			}
			if got, err := s.Fetch(t.Context()); err != nil || show(got) != "label of three=three; aws:prod/jwt#v2=two until +24h0m0s; " {
				t.Errorf("got %s, %v", show(got), err)
			}
		})
	}
}

// TestChangesAtOnce sees that no version is lost which somebody was told is in force.
func TestChangesAtOnce(t *testing.T) {
	d := newDouble(t)
	d.put(current, "v2", "two", start)
	var mu sync.Mutex
	var done []string
	var wg sync.WaitGroup
	for i := range 8 {
		s := opened(t, Config{SecretID: "prod/jwt", Region: "eu-west-1", Endpoint: d.url}) // each as in its own process
		wg.Go(func() {
			value := fmt.Sprintf("value-%d", i)
			err := s.Change(t.Context(), adding(value))
			if err != nil && !strings.Contains(err.Error(), "another has changed") {
				t.Error(err)
			}
			if err == nil {
				mu.Lock()
				defer mu.Unlock()
				done = append(done, value)
			}
		})
	}
	wg.Wait()
	got, err := opened(t, Config{SecretID: "prod/jwt", Region: "eu-west-1", Endpoint: d.url}).Fetch(t.Context())
	if err != nil || len(done) == 0 || len(got) != len(done)+1 {
		t.Fatalf("got %s, %v, want %q", show(got), err, done)
	}
	for _, v := range got[:len(done)] {
		if !slices.Contains(done, string(v.Value.Reveal())) {
			t.Errorf("%s is in force, and nobody was told", v.Label)
		}
	}
}

func TestAChangeObeysItsContext(t *testing.T) {
	d := newDouble(t)
	s := opened(t, Config{SecretID: "prod/jwt", Region: "eu-west-1", Endpoint: d.url})
	s.turn <- struct{}{} // a fetch hangs
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Change(ctx, adding("two")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
