package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gatehouse-proxy/gatehouse/internal/secret"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

const path = "secret/gate house/jwt"

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
		data map[string]any
		want string
	}{
		"value":         {map[string]any{"value": "one"}, "label of two=two; vault:secret/gate house/jwt#2=one until +24h0m0s; "},
		"document":      {map[string]any{"value": `{"versions":[{"label":"a","value":"one"}]}`}, "label of two=two; a=one until +24h0m0s; "},
		"json":          {map[string]any{"value": map[string]any{"versions": []any{map[string]any{"label": "a", "value": "one"}}}}, "label of two=two; a=one until +24h0m0s; "},
		"other-fields":  {map[string]any{"value": "one", "n": json.Number("12345678901234567890"), "html": "<&>", "deep": map[string]any{"a": []any{nil, true}}}, "label of two=two; vault:secret/gate house/jwt#2=one until +24h0m0s; "},
		"in-the-middle": {map[string]any{"value": `{"versions":[{"label":"b","value":"one"},{"label":"a","value":"zero","retire_at":"2026-11-01T13:00:00Z"}]}`}, "label of two=two; b=one until +24h0m0s; a=zero until +1h0m0s; "},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDouble(t)
			d.put(path, map[string]any{"value": "zero"}, start.Add(-time.Hour))
			d.put(path, tc.data, start)
			s := opened(t, appRole(t, d))
			if err := s.Change(t.Context(), adding("two")); err != nil {
				t.Fatal(err)
			}
			if got, err := s.Fetch(t.Context()); err != nil || show(got) != tc.want {
				t.Errorf("got %s, %v, want %s", show(got), err, tc.want)
			}
			saved := d.kv[path]
			if len(saved) != 3 {
				t.Fatalf("there are %d versions", len(saved))
			}
			_, wasText := tc.data["value"].(string)
			if _, isText := saved[2].data["value"].(string); isText != wasText {
				t.Errorf("the field is %v", saved[2].data["value"])
			}
			delete(saved[2].data, "value")
			delete(tc.data, "value")
			if diff := cmp.Diff(tc.data, saved[2].data); diff != "" {
				t.Errorf("the other fields: %s", diff)
			}
		})
	}
}

// TestAChangeKeepsWhatTheOverlapKeeps sees that a rotation forgets no version that verifies.
func TestAChangeKeepsWhatTheOverlapKeeps(t *testing.T) {
	d := newDouble(t)
	d.put(path, map[string]any{"value": "zero"}, start.Add(-9*time.Hour))
	d.put(path, map[string]any{"value": "one"}, start.Add(-time.Hour))
	c := appRole(t, d)
	c.Overlap = unit.Duration(10 * time.Hour)
	s := opened(t, c)
	if err := s.Change(t.Context(), adding("two")); err != nil {
		t.Fatal(err)
	}
	want := "label of two=two; vault:secret/gate house/jwt#2=one until +24h0m0s; vault:secret/gate house/jwt#1=zero until +9h0m0s; "
	if got, err := s.Fetch(t.Context()); err != nil || show(got) != want {
		t.Errorf("got %s, %v, want %s", show(got), err, want)
	}
}

func TestAChangeThatFails(t *testing.T) {
	errNone := errors.New("none can be made")
	for name, tc := range map[string]struct {
		change func(t *testing.T, d *double, c *Config)
		by     func(d *double, old []secret.Version) ([]secret.Version, error)
		want   string
	}{
		"policy": {func(_ *testing.T, d *double, _ *Config) { d.readOnly = true }, nil,
			`writing secret/gate house/jwt: Vault answered 403: it may not be written, the policy lacks the capability update: path "secret/data/gate house/jwt" { capabilities = ["read", "update"] }`},
		"token-file": {func(t *testing.T, d *double, c *Config) {
			d.readOnly = true
			c.AppRole, c.TokenFile = nil, file(t, rootToken)
		}, nil, "or write a token that has not ended into "},
		"another-was-faster": {nil, func(d *double, old []secret.Version) ([]secret.Version, error) {
			d.put(path, map[string]any{"value": "theirs"}, start)
			return adding("two")(old)
		}, "another has changed secret/gate house/jwt in Vault meanwhile, and that change stays: look at it with gatehouse secrets status, and try again"},
		"none-is-made": {nil, func(*double, []secret.Version) ([]secret.Version, error) { return nil, errNone }, "none can be made"},
		"too-large": {nil, func(_ *double, old []secret.Version) ([]secret.Version, error) {
			return adding(strings.Repeat("sesame", 12000))(old)
		}, "the versions would have more than 64 KiB"},
		"deleted": {func(_ *testing.T, d *double, _ *Config) { d.kv[path][0].deleted = "2026-11-01T00:00:00Z" }, nil, "was deleted"},
		"sealed-meanwhile": {nil, func(d *double, old []secret.Version) ([]secret.Version, error) {
			d.set(func() { d.sealed = true })
			return adding("two")(old)
		}, "whether it was written is not known"},
		"failed": {func(_ *testing.T, d *double, _ *Config) { d.answer = atWrites(status(500)) }, nil, "it has failed, see Vault's log; nothing has changed"},
		"quota":  {func(_ *testing.T, d *double, _ *Config) { d.answer = atWrites(status(429)) }, nil, "writing secret/gate house/jwt: Vault answered 429: a rate limit quota"},
		"cut-before": {func(_ *testing.T, d *double, _ *Config) { d.cut = "before" }, nil,
			"does not answer, check the address and that it runs: EOF; nothing has changed"},
		"another-was-faster-and-the-answer-is-lost": {func(_ *testing.T, d *double, _ *Config) { d.cut = "before" }, func(d *double, old []secret.Version) ([]secret.Version, error) {
			d.put(path, map[string]any{"value": "theirs"}, start)
			return adding("two")(old)
		}, "another has changed secret/gate house/jwt in Vault meanwhile"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDouble(t)
			d.put(path, map[string]any{"value": "sesame"}, start)
			c := appRole(t, d)
			if tc.change != nil {
				tc.change(t, d, &c)
			}
			err := opened(t, c).Change(t.Context(), func(old []secret.Version) ([]secret.Version, error) {
				if tc.by != nil {
					return tc.by(d, old)
				}
				return adding("two")(old)
			})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want %q", err, tc.want)
			}
			if strings.Contains(err.Error(), "sesame") {
				t.Errorf("the error holds a secret: %v", err)
			}
			if d.writes != 0 {
				t.Errorf("%d writes", d.writes)
			}
		})
	}
}

// atWrites answers writes alone.
func atWrites(answer func(http.ResponseWriter, *http.Request) bool) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		return r.Method == http.MethodPost && strings.Contains(r.URL.Path, "/data/") && answer(w, r)
	}
}

func TestAChangeWhoseAnswerIsLost(t *testing.T) {
	for name, value := range map[string]any{"text": "one", "json": map[string]any{"versions": []any{map[string]any{"label": "a", "value": "one"}}}} {
		t.Run(name, func(t *testing.T) {
			d := newDouble(t)
			d.put(path, map[string]any{"value": value}, start)
			d.cut = "after"
			s := opened(t, appRole(t, d))
			if err := s.Change(t.Context(), adding("two")); err != nil {
				t.Fatal(err)
			}
			if got, err := s.Fetch(t.Context()); err != nil || len(got) != 2 || string(got[0].Value.Reveal()) != "two" || d.writes != 1 {
				t.Errorf("got %s, %v after %d writes", show(got), err, d.writes)
			}
		})
	}
}

func TestAChangeWithATokenThatWasRevoked(t *testing.T) {
	d := newDouble(t)
	d.put(path, map[string]any{"value": "one"}, start)
	s := opened(t, appRole(t, d))
	err := s.Change(t.Context(), func(old []secret.Version) ([]secret.Version, error) {
		d.set(func() { clear(d.tokens) })
		return adding("two")(old)
	})
	if err != nil || d.writes != 1 {
		t.Errorf("got %v after %d writes", err, d.writes)
	}
}

// TestChangesAtOnce sees that no version is lost which somebody was told is in force.
func TestChangesAtOnce(t *testing.T) {
	d := newDouble(t)
	d.put(path, map[string]any{"value": "one"}, start)
	var mu sync.Mutex
	var done []string
	var wg sync.WaitGroup
	for i := range 8 {
		s := opened(t, appRole(t, d)) // each as in its own process
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
	got, err := opened(t, appRole(t, d)).Fetch(t.Context())
	if err != nil || len(done) == 0 || len(got) != len(done)+1 || d.writes != len(done) {
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
	s := opened(t, appRole(t, d))
	s.turn <- struct{}{} // a fetch hangs
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Change(ctx, adding("two")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
