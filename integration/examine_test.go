package integration

import (
	"database/sql"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/backends/cache/cachetest"
	"github.com/gatehouse-proxy/gatehouse/backends/flags/flagstest"
	"github.com/gatehouse-proxy/gatehouse/backends/identity/identitytest"
	"github.com/gatehouse-proxy/gatehouse/backends/jobs/jobstest"
	"github.com/gatehouse-proxy/gatehouse/backends/locks/lockstest"
	"github.com/gatehouse-proxy/gatehouse/backends/uploads/uploadstest"
	"github.com/gatehouse-proxy/gatehouse/backends/webhooks/webhookstest"
)

// inProcess mounts the backends in the gateway.
const inProcess = `{
	admin %[1]s
	gatehouse {
		data_dir %[2]s/data
		backend jobs {
			queue examine {
				attempts 3
				backoff  fixed 50ms
			}
			queue examine-pull {
				pull
				attempts 3
				backoff  fixed 50ms
			}
			queue examine-full {
				pull
				waiting     3
				key_waiting 2
			}
			queue examine-ordered {
				ordered
			}
			allow 127.0.0.1
		}
		backend webhooks {
			allow_private 127.0.0.0/8
			user_private
		}
		backend cache {
			fill_allow 127.0.0.1
		}
	}
}
http://127.0.0.1:%[3]s {
	guard {
		paths pass
	}
	@identity path /login /refresh /logout /users /users/* /revocations /revocations/* /.well-known/*
	handle @identity {
		backend identity
	}
	handle {
		jwt_auth {
			optional
		}
		@jobs path /jobs /jobs/* /queues /queues/*
		handle @jobs {
			backend jobs as operator
		}
		@flags path /flags /flags/* /ofrep/*
		handle @flags {
			backend flags as operator
		}
		@locks path /locks /locks/*
		handle @locks {
			backend locks as operator
		}
		@webhooks path /events /endpoints /endpoints/* /deliveries /deliveries/* /received
		handle @webhooks {
			backend webhooks as operator
		}
		handle_path /own/* {
			backend webhooks
		}
		handle /uploads/* {
			backend uploads
		}
		handle /cache/* {
			backend cache as operator
		}
		handle {
			respond 404
		}
	}
}
`

// split proxies to the backends, which run alone.
const split = `{
	admin %[1]s
	gatehouse {
		data_dir %[2]s/gateway
	}
}
http://127.0.0.1:%[3]s {
	guard {
		paths pass
	}
	request_header -Gatehouse-*
	@identity path /login /refresh /logout /users /users/* /revocations /revocations/* /.well-known/*
	handle @identity {
		reverse_proxy 127.0.0.1:%[4]s {
			header_up Gatehouse-Client-Ip {client_ip}
		}
	}
	handle {
		jwt_auth {
			jwks     http://127.0.0.1:%[4]s/.well-known/jwks.json
			issuer   gatehouse
			audience api
			optional
		}
		@users path /uploads/* /own/*
		handle @users {
			uri strip_prefix /own
			reverse_proxy 127.0.0.1:%[4]s {
				header_up Gatehouse-Subject {http.jwt_auth.header.id}
				header_up Gatehouse-Role {http.jwt_auth.roles}
				header_up Gatehouse-Scope {http.jwt_auth.scopes}
				header_up Gatehouse-Client-Ip {client_ip}
			}
		}
		handle {
			reverse_proxy 127.0.0.1:%[4]s {
				header_up Gatehouse-Subject {http.jwt_auth.header.id}
				header_up Gatehouse-Role {http.jwt_auth.roles}
				header_up Gatehouse-Scope {http.jwt_auth.scopes}
				header_up Gatehouse-Rank operator
				header_up Gatehouse-Client-Ip {client_ip}
			}
		}
	}
}
`

// adminSecret opens the admin API of identity where there is no admin endpoint of Caddy beside it.
const adminSecret = "the administrator's secret of this test"

const splitBackends = `{
	"listen": "127.0.0.1:%[1]s",
	"data_dir": "%[2]s/data",
	"secrets": {"admin": {"file": "%[2]s/admin"}},
	"backends": {
		"identity": {"admin_secret": "admin"},
		"jobs": {"queues": {"examine": {"attempts": 3, "backoff": "fixed 50ms"}, "examine-pull": {"pull": true, "attempts": 3, "backoff": "fixed 50ms"}, "examine-full": {"pull": true, "waiting": 3, "key_waiting": 2}, "examine-ordered": {"ordered": true}}, "allow": ["127.0.0.1"]},
		"webhooks": {"allow_private": ["127.0.0.0/8"], "user_private": true},
		"cache": {"fill_allow": ["127.0.0.1"]}
	}
}`

// TestExaminers judges the backends in the gateway's process and alone behind reverse_proxy by the
// same examiners.
func TestExaminers(t *testing.T) {
	t.Run("in-process", func(t *testing.T) {
		t.Parallel()
		e := &example{dir: t.TempDir(), admin: "127.0.0.1:" + freePort(t)}
		port := freePort(t)
		e.base = "http://127.0.0.1:" + port
		e.serve(t, fmt.Sprintf(inProcess, e.admin, e.dir, port))
		e.examine(t, e.inGateway())
	})
	t.Run("behind-a-proxy", func(t *testing.T) {
		t.Parallel()
		e := &example{dir: t.TempDir(), admin: "127.0.0.1:" + freePort(t)}
		port, backends := freePort(t), freePort(t)
		e.base = "http://127.0.0.1:" + port
		file := filepath.Join(e.dir, "backends.json")
		if err := os.WriteFile(file, fmt.Appendf(nil, splitBackends, backends, e.dir), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(e.dir, "admin"), []byte(adminSecret), 0o600); err != nil {
			t.Fatal(err)
		}
		p := start(t, e.dir, "backends", "--config", file, "cache", "flags", "identity", "jobs", "locks", "uploads", "webhooks")
		p.waitFor("http://127.0.0.1:" + backends + "/readyz")
		e.serve(t, fmt.Sprintf(split, e.admin, e.dir, port, backends))
		e.examine(t, identitytest.Options{Admin: e.base, AdminToken: adminSecret})
		p.terminate()
	})
}

// serve runs the gateway with the Caddyfile.
func (e *example) serve(t *testing.T, caddyfile string) {
	t.Helper()
	e.config = filepath.Join(e.dir, "Caddyfile")
	if err := os.WriteFile(e.config, []byte(caddyfile), 0o600); err != nil {
		t.Fatal(err)
	}
	e.run(t)
}

// inGateway are the options for identity in the gateway's process.
func (e *example) inGateway() identitytest.Options {
	return identitytest.Options{Admin: "http://" + e.admin + "/gatehouse/backends/identity", Protected: e.base + "/jobs?queue=examine"}
}

func (e *example) examine(t *testing.T, identity identitytest.Options) {
	key := e.key(t, "jobs-signing")
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	var mu sync.Mutex
	tokens := map[string]string{}
	as := func(r *http.Request, name string) {
		mu.Lock()
		defer mu.Unlock()
		if tokens[name] == "" {
			tokens[name] = e.gatehouse(t, "", "token", "mint", "--sub", name, "--database", e.database)
		}
		r.Header.Set("Authorization", "Bearer "+tokens[name])
	}
	// They wait more than they work, so they run at once; the outer Run ends when all have.
	t.Run("of", func(t *testing.T) {
		for name, examine := range map[string]func(t *testing.T){
			"jobs":     func(t *testing.T) { jobstest.Examine(t, e.base, client, jobstest.Options{SigningKey: key}) },
			"uploads":  func(t *testing.T) { uploadstest.Examine(t, e.base, client, as) },
			"cache":    func(t *testing.T) { cachetest.Examine(t, e.base, client) },
			"locks":    func(t *testing.T) { lockstest.Examine(t, e.base, client) },
			"flags":    func(t *testing.T) { flagstest.Examine(t, e.base, client) },
			"identity": func(t *testing.T) { identitytest.Examine(t, e.base, client, identity) },
			"webhooks": func(t *testing.T) {
				webhookstest.Examine(t, e.base, client, webhookstest.Users{Base: e.base + "/own", As: as})
			},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				examine(t)
			})
		}
	})
}

// key is the generated key of that name.
func (e *example) key(t *testing.T, name string) string {
	t.Helper()
	if e.database == "" {
		b, err := os.ReadFile(filepath.Join(e.dir, "data", "keys", name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	db, err := sql.Open("pgx", e.database)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	var b []byte
	if err = db.QueryRowContext(t.Context(), "SELECT value FROM service_keys WHERE name = $1", name).Scan(&b); err != nil {
		t.Fatal(err)
	}
	return string(b)
}
