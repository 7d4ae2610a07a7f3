package vault

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// double answers as Vault does, as far as its HTTP API documents describe the AppRole and Kubernetes
// methods, the key-value store of version 2 with its check-and-set, and the general statuses (developer.hashicorp.com/vault/api-docs).
// It is written from them because no package registry that the tests reach has a Vault or OpenBao server.
type double struct {
	t *testing.T

	mu        sync.Mutex
	url       string
	namespace string
	lease     int // seconds
	policy    bool
	readOnly  bool
	sealed    bool
	kv        map[string][]saved // by MOUNT/PATH
	tokens    map[string]bool
	logins    int
	reads     int
	writes    int
	cut       string                                            // the connection at a write: "before" or "after" it is done
	answer    func(w http.ResponseWriter, r *http.Request) bool // in place of the rest
}

type saved struct {
	data      map[string]any
	created   time.Time
	deleted   string
	destroyed bool
}

const (
	roleID    = "role-1f2e"
	secretID  = "sesame-secret-id"
	podToken  = "sesame.pod.token"
	rootToken = "sesame-root-token"
)

func newDouble(t *testing.T) *double {
	d := &double{t: t, policy: true, lease: 3600, kv: map[string][]saved{}, tokens: map[string]bool{rootToken: true}}
	s := httptest.NewServer(d)
	t.Cleanup(s.Close)
	d.url = s.URL
	return d
}

func (d *double) put(path string, data map[string]any, created time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.kv[path] = append(d.kv[path], saved{data: data, created: created})
}

func (d *double) set(change func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change()
}

func (d *double) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.answer != nil && d.answer(w, r) {
		return
	}
	if r.Header.Get("X-Vault-Request") != "true" {
		d.t.Error("a request without X-Vault-Request")
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/v1/")
	switch {
	case d.sealed:
		refuse(w, http.StatusServiceUnavailable, "Vault is sealed")
	case !ok || r.Header.Get("X-Vault-Namespace") != d.namespace:
		refuse(w, http.StatusNotFound, "no handler for route")
	case r.Method == http.MethodPost && strings.Contains(path, "/data/"):
		d.write(w, r, path)
	case r.Method == http.MethodPost:
		d.logIn(w, r, path)
	default:
		d.read(w, r, path)
	}
}

func (d *double) logIn(w http.ResponseWriter, r *http.Request, path string) {
	var body map[string]string
	_ = json.NewDecoder(r.Body).Decode(&body)
	switch path {
	case "auth/approle/login":
		if body["role_id"] != roleID || body["secret_id"] != secretID {
			refuse(w, http.StatusBadRequest, "invalid role or secret ID")
			return
		}
	case "auth/clusters/eu/login":
		if body["role"] != "gateway" || body["jwt"] != podToken {
			refuse(w, http.StatusForbidden, "service account name not authorized: "+body["jwt"])
			return
		}
	default:
		refuse(w, http.StatusNotFound, "no handler for route")
		return
	}
	d.logins++
	token := fmt.Sprintf("hvs.sesame-%d", d.logins)
	d.tokens[token] = true
	reply(w, http.StatusOK, map[string]any{"auth": map[string]any{"client_token": token, "lease_duration": d.lease, "renewable": true}})
}

func (d *double) read(w http.ResponseWriter, r *http.Request, path string) {
	d.reads++
	mount, rest, _ := strings.Cut(path, "/data/")
	versions := d.kv[mount+"/"+rest]
	n := len(versions)
	if q := r.URL.Query().Get("version"); q != "" {
		n, _ = strconv.Atoi(q)
	}
	switch {
	case !d.tokens[r.Header.Get("X-Vault-Token")] || !d.policy:
		refuse(w, http.StatusForbidden, "1 error occurred:\n\t* permission denied\n\n")
	case n < 1 || n > len(versions) || versions[n-1].created.IsZero():
		reply(w, http.StatusNotFound, map[string]any{"errors": []string{}})
	default:
		v := versions[n-1]
		status, data := http.StatusOK, v.data
		if v.destroyed || v.deleted != "" {
			status, data = http.StatusNotFound, nil
		}
		reply(w, status, map[string]any{"lease_duration": 0, "data": map[string]any{"data": data, "metadata": map[string]any{
			"created_time": v.created.Format(time.RFC3339Nano), "custom_metadata": nil, "deletion_time": v.deleted, "destroyed": v.destroyed, "version": n,
		}}})
	}
}

func (d *double) write(w http.ResponseWriter, r *http.Request, path string) {
	if d.cut == "before" {
		panic(http.ErrAbortHandler)
	}
	var body struct {
		Options struct{ CAS *int }
		Data    map[string]any
	}
	dec := json.NewDecoder(r.Body)
	dec.UseNumber()
	if err := dec.Decode(&body); err != nil || body.Options.CAS == nil || body.Data == nil {
		d.t.Errorf("the write is %+v, %v", body, err)
	}
	mount, rest, _ := strings.Cut(path, "/data/")
	key := mount + "/" + rest
	switch {
	case !d.tokens[r.Header.Get("X-Vault-Token")] || d.readOnly:
		refuse(w, http.StatusForbidden, "1 error occurred:\n\t* permission denied\n\n")
		return
	case *body.Options.CAS != len(d.kv[key]):
		refuse(w, http.StatusBadRequest, "check-and-set parameter did not match the current version")
		return
	}
	d.writes++
	d.kv[key] = append(d.kv[key], saved{data: body.Data, created: start})
	if d.cut == "after" {
		panic(http.ErrAbortHandler)
	}
	reply(w, http.StatusOK, map[string]any{"data": map[string]any{"created_time": start.Format(time.RFC3339Nano), "version": len(d.kv[key])}})
}

func refuse(w http.ResponseWriter, status int, errors ...string) {
	reply(w, status, map[string]any{"errors": errors})
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}
