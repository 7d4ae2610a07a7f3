package secrets

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
)

// vaultDouble is one secret of Vault's key-value store of version 2, as the documents of its HTTP API
// describe it (developer.hashicorp.com/vault/api-docs/secret/kv/kv-v2).
type vaultDouble struct {
	mu       sync.Mutex
	versions []map[string]any
	readOnly bool
}

func (d *vaultDouble) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var body struct {
		Options struct{ CAS int }
		Data    map[string]any
	}
	answer := func(status int, v any) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v)
	}
	switch {
	case r.URL.Path != "/v1/teams/a/kv/data/gatehouse/jwt" || r.Header.Get("X-Vault-Token") != "sesame-token":
		answer(http.StatusForbidden, map[string]any{"errors": []string{"permission denied"}})
		return
	case r.Method == http.MethodPost && d.readOnly:
		answer(http.StatusForbidden, map[string]any{"errors": []string{"permission denied"}})
		return
	case r.Method == http.MethodPost && (json.NewDecoder(r.Body).Decode(&body) != nil || body.Options.CAS != len(d.versions)):
		answer(http.StatusBadRequest, map[string]any{"errors": []string{"check-and-set parameter did not match the current version"}})
		return
	case r.Method == http.MethodPost:
		d.versions = append(d.versions, body.Data)
	}
	n := len(d.versions)
	answer(http.StatusOK, map[string]any{"data": map[string]any{"data": d.versions[n-1], "metadata": map[string]any{"version": n, "created_time": time.Now()}}})
}

func TestRotateInVault(t *testing.T) {
	d := &vaultDouble{versions: []map[string]any{{"key": "sesame-one", "other": "sesame-other"}}}
	vault := httptest.NewServer(d)
	defer vault.Close()
	dir := t.TempDir()
	token := filepath.Join(dir, "token")
	put(t, token, "sesame-token\n")
	admin := app(t, dir, "\t\tsecret jwt vault gatehouse/jwt {\n\t\t\taddress "+vault.URL+"\n\t\t\tmount teams/a/kv\n\t\t\tfield key\n\t\t\tauth token_file "+token+"\n\t\t}")
	rotate := func(code int, want string) {
		t.Helper()
		out, errs, got := modtest.Command(t, "", "secrets", "rotate", "jwt", "--overlap", "24h", "--address", admin)
		if got != code || !strings.Contains(out+errs, want) || strings.Contains(out+errs, "sesame") {
			t.Errorf("got %d, %s%s, want %d, %s", got, out, errs, code, want)
		}
	}
	rotate(0, "The version vault:teams/a/kv/gatehouse/jwt#1 goes on verifying until ")
	out, errs, _ := modtest.Command(t, "", "secrets", "status", "--address", admin)
	if strings.Count(out, "retiring, signs") != 1 || strings.Count(out, " from 2") != 1 { // the new one is to come
		t.Errorf("got %s%s", out, errs)
	}
	d.mu.Lock()
	if len(d.versions) != 2 || d.versions[1]["other"] != "sesame-other" || !strings.Contains(d.versions[1]["key"].(string), "sesame-one") {
		t.Errorf("Vault holds %v", d.versions)
	}
	d.readOnly = true
	d.mu.Unlock()
	rotate(1, `the policy lacks the capability update: path "teams/a/kv/data/gatehouse/jwt" { capabilities = ["read", "update"] }`)
}
