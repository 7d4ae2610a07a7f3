package uploads_test

import (
	"context"
	"database/sql"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/gatehouse-proxy/gatehouse/backends/uploads"
	"github.com/gatehouse-proxy/gatehouse/backends/uploads/uploadstest"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
	_ "github.com/gatehouse-proxy/gatehouse/modules/backend"
	_ "github.com/gatehouse-proxy/gatehouse/modules/backend/uploads"
	_ "github.com/gatehouse-proxy/gatehouse/modules/guard"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
)

func TestGolden(t *testing.T) { modtest.Golden(t, "testdata") }

func init() { caddy.RegisterModule(new(jobs)) }

// jobs stands in for the queue: it keeps jobs in memory and runs them when it is told of their commit.
type jobs struct {
	mu   sync.Mutex
	todo [][]byte
	work func(ctx context.Context, payload []byte) error
}

func (*jobs) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "gatehouse.backends.jobs", New: func() caddy.Module { return new(jobs) }}
}

func (q *jobs) Open(context.Context, *service.Host) (service.Service, error) { return q, nil }

func (q *jobs) EnqueueTx(_ context.Context, _ *sql.Tx, _ string, payload []byte) (string, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.todo = append(q.todo, payload)
	return "1", nil
}

func (q *jobs) Handle(_ string, work func(context.Context, []byte) error) { q.work = work }

func (q *jobs) Poke() {
	q.mu.Lock()
	todo := q.todo
	q.todo = nil
	q.mu.Unlock()
	for _, payload := range todo {
		go func() { _ = q.work(context.Background(), payload) }()
	}
}

func (q *jobs) ServeHTTP(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) }
func (q *jobs) Check(context.Context) error                      { return nil }
func (q *jobs) Run(ctx context.Context) error                    { <-ctx.Done(); return nil }

// users is basic_auth for the examiner's users; the hash is bcrypt of "secret" at the lowest cost.
const users = `
	@api not path /uploads/objects/*
	basic_auth @api {
		uploads-ann   HASH
		uploads-bob   HASH
		uploads-flood HASH
	}
`

func site(route string) string {
	const hash = "$2a$04$Lh.n6APDiO4jRoo7q8nZSOmv6ZSHCOgRysNZLAsmEP25XCUCPWYLi"
	return "{\n\tgatehouse {\n\t\tdata_dir @@data@@\n\t}\n}\n:80 {\n\tguard {\n\t\tpaths pass\n\t}\n" + strings.ReplaceAll(users, "HASH", hash) + route + "\n}\n"
}

func examine(t *testing.T, h http.Handler) {
	web := httptest.NewServer(h)
	defer web.Close()
	uploadstest.Examine(t, web.URL, web.Client(), func(r *http.Request, name string) {
		r.SetBasicAuth(name, "secret")
		r.Header.Set(service.SubjectHeader, "uploads-mallory") // the gateway does not believe it
	})
}

// TestExamineInProcess runs the examiner on the whole chain: passwords identify users, and
// presigned URLs pass without.
func TestExamineInProcess(t *testing.T) {
	examine(t, modtest.Start(t, site("handle /uploads/* {\n\tbackend uploads\n}")))
}

// TestExamineBehindReverseProxy does the same with the backend in a process of its own.
func TestExamineBehindReverseProxy(t *testing.T) {
	h, err := service.NewHost(t.Context(), service.Settings{DataDir: t.TempDir()}, nil, func(name string) (service.Opener, error) {
		return map[string]service.Opener{"uploads": uploads.Config{}, "jobs": new(jobs)}[name], nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	if err = h.Open(t.Context(), "uploads"); err != nil {
		t.Fatal(err)
	}
	backend, err := h.Handler("uploads")
	if err != nil {
		t.Fatal(err)
	}
	alone := httptest.NewServer(backend)
	defer alone.Close()
	examine(t, modtest.Start(t, site("handle /uploads/* {\n\treverse_proxy "+strings.TrimPrefix(alone.URL, "http://")+
		" {\n\t\theader_up "+service.SubjectHeader+" {http.auth.user.id}\n\t}\n}")))
}
