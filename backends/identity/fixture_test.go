package identity_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alexedwards/argon2id"
	"github.com/golang-jwt/jwt/v5"

	"github.com/gatehouse-proxy/gatehouse/backends/identity"
	"github.com/gatehouse-proxy/gatehouse/integration/redistest"
	"github.com/gatehouse-proxy/gatehouse/internal/redisconn"
	"github.com/gatehouse-proxy/gatehouse/internal/secret"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
	"github.com/gatehouse-proxy/gatehouse/internal/sqldb"
)

const (
	adminToken    = "the admin's own token"
	newAdminToken = "the admin's next token"
)

func keySet(raw ...[]byte) *secret.Set {
	var versions []secret.Version
	for _, b := range raw {
		versions = append(versions, secret.Version{Label: "test", Value: secret.NewValue(b)})
	}
	return secret.NewSet("signing", versions...)
}

func pkcs8(t testing.TB, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

type fixture struct {
	*identity.Service
	users *identity.Users
	db    *sqldb.DB
}

// open opens the database at url, or for "" the one in dir.
func open(t testing.TB, url, dir string) *sqldb.DB {
	t.Helper()
	var db *sqldb.DB
	var err error
	if url != "" {
		db, err = sqldb.OpenPostgres(context.Background(), url)
	} else {
		db, err = sqldb.Open(context.Background(), dir)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func start(t testing.TB, cfg identity.Config, keys *secret.Set, url string) fixture {
	t.Helper()
	return startOn(t, cfg, identity.Deps{Keys: keys}, open(t, url, t.TempDir()))
}

// startOn makes a service over db whose hashes cost next to nothing, and generates a key if it has none.
func startOn(t testing.TB, cfg identity.Config, d identity.Deps, db *sqldb.DB) fixture {
	t.Helper()
	d.HashCost = &argon2id.Params{Memory: 64, Iterations: 1, Parallelism: 1, SaltLength: 16, KeyLength: 32}
	return startAtCost(t, cfg, d, db)
}

// startAtCost is startOn with the cost in d, by default the real one.
func startAtCost(t testing.TB, cfg identity.Config, d identity.Deps, db *sqldb.DB) fixture {
	t.Helper()
	users, err := identity.OpenUsers(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	if d.Keys == nil {
		raw, err := identity.GenerateKey()
		if err != nil {
			t.Fatal(err)
		}
		d.Keys = keySet(raw)
	}
	d.Users = users
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	s, err := identity.New(cfg, d)
	if err != nil {
		t.Fatal(err)
	}
	return fixture{s, users, db}
}

func (f fixture) post(path, body string) *http.Response {
	w := httptest.NewRecorder()
	f.ServeHTTP(w, httptest.NewRequest(http.MethodPost, path, strings.NewReader(body)))
	return w.Result()
}

func (f fixture) login(email, password string) *http.Response {
	b, _ := json.Marshal(map[string]string{"email": email, "password": password})
	return f.post("/login", string(b))
}

func (f fixture) mustAdd(t testing.TB, email, password, role, scope string) identity.User {
	t.Helper()
	in, _ := json.Marshal(map[string]string{"email": email, "password": password, "role": role, "scope": scope})
	r := httptest.NewRequest(http.MethodPost, "/users", bytes.NewReader(in))
	resp := f.do(r.WithContext(service.AsAdmin(r.Context())))
	if resp.StatusCode != http.StatusCreated {
		t.Fatalf("adding %s: got %d %v", email, resp.StatusCode, body(t, resp))
	}
	var u identity.User
	if err := json.NewDecoder(resp.Body).Decode(&u); err != nil {
		t.Fatal(err)
	}
	return u
}

func body(t testing.TB, resp *http.Response) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&m); err != nil {
		t.Fatal(err)
	}
	return m
}

type accessClaims struct {
	jwt.RegisteredClaims
	Session string `json:"sid"`
}

// parse verifies a token by the service's keys.
func (f fixture) parse(token string) (c accessClaims, err error) {
	_, err = jwt.NewParser(jwt.WithLeeway(5*time.Second), jwt.WithIssuedAt()).ParseWithClaims(token, &c, func(t *jwt.Token) (any, error) {
		var found any
		f.VerificationKeys(func(kid, _ string, key any) {
			if kid == t.Header["kid"] {
				found = key
			}
		})
		return found, nil
	})
	return c, err
}

// accepts says whether the token is valid and not revoked.
func (f fixture) accepts(token string) bool {
	c, err := f.parse(token)
	return err == nil && !f.Revoked(c.Issuer, c.ID, c.Session, c.Subject, c.IssuedAt.UnixMilli())
}

// running runs the service until the test ends.
func (f fixture) running(t testing.TB) fixture {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = f.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return f
}

// serve serves the API with /protected beside it.
func (f fixture) serve(t testing.TB) string {
	mux := http.NewServeMux()
	mux.Handle("/", f)
	mux.HandleFunc("/protected", func(w http.ResponseWriter, r *http.Request) {
		if !f.accepts(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")) {
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return srv.URL
}

func (f fixture) admin(t testing.TB, method, path, body string, want int) map[string]any {
	t.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	f.ServeHTTP(w, r.WithContext(service.AsAdmin(r.Context())))
	if w.Code != want {
		t.Fatalf("%s %s %s: got %d %s, want %d", method, path, body, w.Code, w.Body, want)
	}
	m := map[string]any{}
	_ = json.Unmarshal(w.Body.Bytes(), &m)
	return m
}

// loginRequest is a login from a client address, as the gateway says, or for "peer HOST:PORT" from that peer.
func loginRequest(from, email, password string) *http.Request {
	b, _ := json.Marshal(map[string]string{"email": email, "password": password})
	r := httptest.NewRequest("POST", "/login", bytes.NewReader(b))
	if peer, ok := strings.CutPrefix(from, "peer "); ok {
		r.RemoteAddr = peer
	} else {
		r.Header.Set(service.ClientIPHeader, from)
	}
	return r
}

// loginFrom logs in from a client address, which must be answered with the status.
func (f fixture) loginFrom(t testing.TB, want int, from, email, password string) *http.Response {
	t.Helper()
	r := f.do(loginRequest(from, email, password))
	if r.StatusCode != want {
		t.Fatalf("from %s to %s: got %d, want %d", from, email, r.StatusCode, want)
	}
	return r
}

func (f fixture) do(r *http.Request) *http.Response {
	w := httptest.NewRecorder()
	f.ServeHTTP(w, r)
	return w.Result()
}

type tokens struct {
	Token   string
	Refresh string `json:"refresh_token"`
}

func (f fixture) mustLogin(t testing.TB, email, password string) (got tokens) {
	t.Helper()
	resp := f.login(email, password)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("login: got %d %v", resp.StatusCode, body(t, resp))
	}
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil {
		t.Fatal(err)
	}
	return got
}

func (f fixture) refresh(t testing.TB, token string, want int) (got tokens) {
	t.Helper()
	resp := f.post("/refresh", `{"refresh_token":"`+token+`"}`)
	if resp.StatusCode != want {
		t.Fatalf("refresh: got %d %v, want %d", resp.StatusCode, body(t, resp), want)
	}
	_ = json.NewDecoder(resp.Body).Decode(&got)
	return got
}

func adminSet() *secret.Set {
	return secret.NewSet("admin", secret.Version{Label: "new", Value: secret.NewValue([]byte(newAdminToken))},
		secret.Version{Label: "old", Value: secret.NewValue([]byte(adminToken))})
}

func redisTo(t testing.TB, server *redistest.Server) *redisconn.Conn {
	t.Helper()
	conn, err := redisconn.New(redisconn.Config{Addresses: []string{server.URL()}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

// clock is one that stands still until it is moved.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Now().Truncate(time.Second)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) forward(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}
