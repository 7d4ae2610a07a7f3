package source

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/integration/await"
	"github.com/gatehouse-proxy/gatehouse/internal/secret/aws"
	"github.com/gatehouse-proxy/gatehouse/internal/secret/vault"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

// vaultDouble answers a read and a write of secret/jwt as the documents of Vault's HTTP API say that the key-value
// store of version 2 does (developer.hashicorp.com/vault/api-docs/secret/kv/kv-v2).
type vaultDouble struct {
	mu     sync.Mutex
	values []string // version 1 first
	sealed bool
	asked  int
	behind bool // reads are answered by a copy that has not seen the last write
}

func (d *vaultDouble) change(by func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	by()
}

func (d *vaultDouble) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked++
	n := len(d.values)
	if d.behind && n > 1 {
		n--
	}
	if q := r.URL.Query().Get("version"); q != "" {
		n, _ = strconv.Atoi(q)
	}
	status, answer := http.StatusOK, map[string]any{"data": map[string]any{
		"data":     map[string]any{"value": d.values[n-1]},
		"metadata": map[string]any{"created_time": time.Now().UTC().Format(time.RFC3339Nano), "deletion_time": "", "destroyed": false, "version": n},
	}}
	switch {
	case d.sealed:
		status, answer = http.StatusServiceUnavailable, map[string]any{"errors": []string{"Vault is sealed"}}
	case r.URL.Path != "/v1/secret/data/jwt" || r.Header.Get("X-Vault-Token") != "sesame-token":
		status, answer = http.StatusForbidden, map[string]any{"errors": []string{"permission denied"}}
	case r.Method == http.MethodPost:
		var body struct {
			Options struct{ CAS int }
			Data    map[string]string
		}
		if json.NewDecoder(r.Body).Decode(&body) != nil || body.Options.CAS != len(d.values) {
			status, answer = http.StatusBadRequest, map[string]any{"errors": []string{"check-and-set parameter did not match the current version"}}
			break
		}
		d.values = append(d.values, body.Data["value"])
		answer = map[string]any{"data": map[string]any{"version": len(d.values)}}
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer)
}

// source is the set that d keeps.
func (d *vaultDouble) source(t *testing.T) Source {
	t.Helper()
	srv := httptest.NewServer(d)
	t.Cleanup(srv.Close)
	token := filepath.Join(t.TempDir(), "token")
	put(t, token, "sesame-token\n")
	return Source{
		Vault:   &vault.Config{Address: srv.URL, Path: "secret/jwt", Auth: vault.Auth{TokenFile: token}},
		Overlap: unit.Duration(time.Hour), Poll: unit.Duration(time.Second),
	}
}

func TestRotateInVault(t *testing.T) {
	d := &vaultDouble{values: []string{"sesame-1"}}
	s := d.source(t)
	h, other := started(t, newPool(t), s), started(t, newPool(t), s) // as in two processes
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // whoever asked has gone
	done, err := h.Rotate(ctx, 24*time.Hour, nil)
	if err != nil || len(done.Retiring) != 1 || time.Until(*done.Retiring[0].RetireAt) < 23*time.Hour || done.ActiveFrom == nil {
		t.Fatalf("got %+v, %v", done, err)
	}
	if snap := h.Set().Current(); len(snap.Coming) != 1 || !slices.Equal(values(h), []string{"sesame-1"}) {
		t.Fatalf("before the other can know it: %d are to come, %q", len(snap.Coming), values(h))
	}
	await.For(t, "the beginning of the new version", func() error {
		got, theirs := values(h), values(other)
		if len(got) != 2 || len(got[0]) != 64 || got[1] != "sesame-1" || h.Set().Newest().Label != done.Newest || !slices.Equal(theirs, got) {
			return errorf("%q, and of the other %q", got, theirs)
		}
		return nil
	})
	// The overlap of the source does not keep what is retired at once.
	if done, err = h.Rotate(t.Context(), 0, nil); err != nil || len(done.Retiring) != 0 || len(values(h)) != 1 {
		t.Errorf("without an overlap: %+v, %q, %v", done, values(h), err)
	}
	d.change(func() { d.values = append(d.values, `{"kty":"oct"}`) })
	_, err = h.Rotate(t.Context(), time.Hour, nil)
	if _, ok := errors.AsType[*NotRotatedError](err); !ok || !strings.Contains(err.Error(), "a new one of its kind is made by whoever owns it: give the value with --value -") {
		t.Errorf("got %v", err)
	}
	d.change(func() {
		if len(d.values) != 4 {
			t.Errorf("there are %d versions", len(d.values))
		}
	})
}

func TestRotateWhereReadsAreBehind(t *testing.T) {
	d := &vaultDouble{values: []string{"sesame-1"}}
	h := started(t, newPool(t), d.source(t))
	d.change(func() { d.behind = true })
	if _, err := h.Rotate(t.Context(), time.Hour, nil); err == nil || !strings.Contains(err.Error(), "a read does not show it yet: it is in force as soon as one does") {
		t.Errorf("got %v", err)
	}
	d.change(func() { d.behind = false })
	await.For(t, "the poll", func() error {
		if got := values(h); len(got) != 2 || got[1] != "sesame-1" {
			return errorf("%q", got)
		}
		return nil
	})
}

func TestVaultIsPolled(t *testing.T) {
	d := &vaultDouble{values: []string{"sesame-1"}}
	s := d.source(t)
	h := open(t, newPool(t), s)
	d.change(func() {
		if d.asked != 0 {
			t.Error("Vault is asked before the start")
		}
	})
	if err := h.Start(t.Context()); err != nil || !slices.Equal(values(h), []string{"sesame-1"}) {
		t.Fatalf("got %q, %v", values(h), err)
	}
	d.change(func() { d.values = append(d.values, "sesame-2") })
	await.For(t, "the poll", func() error {
		if got := values(h); !slices.Equal(got, []string{"sesame-2", "sesame-1"}) {
			return errorf("%q", got)
		}
		return nil
	})
	st := h.Status()
	if st.Source != "vault" || st.Versions[0].Label != "vault:secret/jwt#2" || st.Versions[1].Label != "vault:secret/jwt#1" || st.Versions[1].RetireAt == nil {
		t.Errorf("got %+v", st)
	}
	d.change(func() { d.sealed = true })
	await.For(t, "the error", func() error {
		if got := h.Status().Error; !strings.Contains(got, "sealed") || strings.Contains(got, "sesame") {
			return errorf("%q", got)
		}
		return nil
	})
	if got := values(h); !slices.Equal(got, []string{"sesame-2", "sesame-1"}) {
		t.Errorf("while Vault is sealed the values are %q", got)
	}
}

func TestRemoteSettingsAreChecked(t *testing.T) {
	for want, s := range map[string]Source{
		"path must be MOUNT/PATH": {Vault: &vault.Config{Path: "jwt", Auth: vault.Auth{TokenFile: "/t"}}},
		"secret_id must be":       {AWS: &aws.Config{}},
		"not both vault and aws":  {Vault: &vault.Config{}, AWS: &aws.Config{}},
	} {
		s.At = "Caddyfile:3"
		if _, err := newPool(t).open("x", s, nil); err == nil || !strings.Contains(err.Error(), want) || !strings.HasSuffix(err.Error(), ", at Caddyfile:3") {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
