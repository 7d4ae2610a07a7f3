package source

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/integration/await"
	"github.com/gatehouse-proxy/gatehouse/internal/secret/aws"
	"github.com/gatehouse-proxy/gatehouse/internal/secret/vault"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

// vaultDouble answers a read of secret/jwt as the documents of Vault's HTTP API say that the key-value
// store of version 2 does (developer.hashicorp.com/vault/api-docs/secret/kv/kv-v2).
type vaultDouble struct {
	mu     sync.Mutex
	values []string // version 1 first
	sealed bool
	asked  int
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
	if r.URL.Query().Get("version") == "1" {
		n = 1
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
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer)
}

func TestVaultIsPolled(t *testing.T) {
	d := &vaultDouble{values: []string{"sesame-1"}}
	srv := httptest.NewServer(d)
	defer srv.Close()
	token := filepath.Join(t.TempDir(), "token")
	put(t, token, "sesame-token\n")
	s := Source{
		Vault:   &vault.Config{Address: srv.URL, Path: "secret/jwt", Auth: vault.Auth{TokenFile: token}},
		Overlap: unit.Duration(time.Hour), Poll: unit.Duration(time.Second),
	}
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
