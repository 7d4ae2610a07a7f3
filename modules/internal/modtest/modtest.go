// Package modtest is how modules are tested: a whole configuration is adapted, provisioned and
// served without sockets, and golden files pair a Caddyfile with the JSON or the error it adapts to.
package modtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile" // the adapter
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/standard" // the standard directives
	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files with what the adapter says now")

// Gateway is a configuration that serves.
type Gateway struct {
	t       testing.TB
	ctx     caddy.Context
	servers map[string]*caddyhttp.Server
	stop    func()
	// Dir is the data directory that @@data@@ stands for in the Caddyfile.
	Dir string
}

// Adapt turns a Caddyfile into JSON.
func Adapt(caddyfile string) ([]byte, error) {
	out, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), map[string]any{"filename": "Caddyfile"})
	return out, err
}

// Start serves the Caddyfile and ends with the test. @@data@@ stands for a new directory. A site
// address should be a plain port such as :80, which matches every host; nothing listens.
func Start(t testing.TB, caddyfile string) *Gateway {
	t.Helper()
	g, err := TryStart(t, caddyfile)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// TryStart is Start for configurations that may be refused.
func TryStart(t testing.TB, caddyfile string) (*Gateway, error) {
	t.Helper()
	return StartIn(t, t.TempDir(), caddyfile)
}

// StartIn is TryStart with the directory that @@data@@ stands for, for restarts and reloads.
func StartIn(t testing.TB, dir, caddyfile string) (*Gateway, error) {
	t.Helper()
	raw, err := Adapt(strings.ReplaceAll(caddyfile, "@@data@@", dir))
	if err != nil {
		return nil, err
	}
	return start(t, dir, raw)
}

// StartJSON is Start for a configuration that no adapter has seen. Its server must be srv0.
func StartJSON(t testing.TB, config string) *Gateway {
	t.Helper()
	g, err := start(t, t.TempDir(), []byte(config))
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func start(t testing.TB, dir string, raw []byte) (*Gateway, error) {
	t.Helper()
	if _, again := awaited.LoadOrStore(dir, true); !again {
		t.Cleanup(func() { awaitRelease(t, dir) }) // after every gateway in it has been stopped
	}
	cfg := Config(t, raw)
	ctx, err := caddy.ProvisionContext(cfg)
	if err != nil {
		return nil, err
	}
	g := &Gateway{t: t, ctx: ctx, Dir: dir}
	g.stop = func() {
		g.stop = func() {}
		caddyCancel(cfg)
	}
	t.Cleanup(func() { g.Stop() })
	if app, err := ctx.AppIfConfigured("gatehouse"); err == nil {
		if err = app.(caddy.App).Start(); err != nil {
			g.Stop()
			return nil, err
		}
	} else if !errors.Is(err, caddy.ErrNotConfigured) {
		return nil, err
	}
	httpApp, err := ctx.App("http")
	if err != nil {
		return nil, err
	}
	g.servers = httpApp.(*caddyhttp.App).Servers
	return g, nil
}

// awaited are the directories that a test waits for before it ends.
var awaited sync.Map

// awaitRelease waits until nothing in the background uses the data directory any more: a gateway that was
// stopped, or that failed to start, drains there, and the files it still writes would be in the way of the
// directory's removal.
func awaitRelease(t testing.TB, dir string) {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, "lock"))
	if errors.Is(err, fs.ErrNotExist) {
		return
	} else if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range 3000 {
		if err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == nil {
			return
		}
		<-tick.C
	}
	t.Errorf("%s is still in use after 30 s: %v", dir, err)
}

// Config is adapted JSON as a configuration without an admin endpoint.
func Config(t testing.TB, raw []byte) *caddy.Config {
	t.Helper()
	cfg := new(caddy.Config)
	if err := json.Unmarshal(raw, cfg); err != nil {
		t.Fatal(err)
	}
	cfg.Admin = &caddy.AdminConfig{Disabled: true}
	return cfg
}

// Stop ends the configuration as a reload or a shutdown does.
func (g *Gateway) Stop() { g.stop() }

// Context is the configuration's context.
func (g *Gateway) Context() caddy.Context { return g.ctx }

// ServeHTTP passes the request through the first server's whole chain.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.servers["srv0"].ServeHTTP(w, r)
}

// Server is the handler of another server than the first, such as srv1.
func (g *Gateway) Server(name string) http.Handler { return g.servers[name] }

// Do is ServeHTTP with the response as a client sees it.
func (g *Gateway) Do(r *http.Request) *http.Response {
	w := httptest.NewRecorder()
	g.ServeHTTP(w, r)
	return w.Result()
}

// Get is Do for a GET with headers given as name, value, name, value.
func (g *Gateway) Get(target string, headers ...string) *http.Response {
	r := httptest.NewRequest(http.MethodGet, target, nil)
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	return g.Do(r)
}

const separator = "----------"

// Golden adapts every *.caddyfiletest in dir. Such a file holds a Caddyfile, a line of ten dashes,
// and the JSON that it adapts to or, if it must fail, the whole error text. go test -update rewrites them.
func Golden(t *testing.T, dir string) {
	files, err := filepath.Glob(filepath.Join(dir, "*.caddyfiletest"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files in %s (%v)", dir, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".caddyfiletest"), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			in, want, _ := strings.Cut(string(b), separator+"\n")
			got := adaptPretty(t, in)
			if *update {
				if err = os.WriteFile(file, []byte(in+separator+"\n"+got), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("adapting differs (-want +got):\n%s", diff)
			}
		})
	}
}

func adaptPretty(t *testing.T, in string) string {
	t.Helper()
	out, err := Adapt(in)
	if err != nil {
		return err.Error() + "\n"
	}
	var pretty bytes.Buffer
	if err = json.Indent(&pretty, out, "", "\t"); err != nil {
		t.Fatal(err)
	}
	return pretty.String() + "\n"
}

// caddyCancel cancels the configuration's context, which cleans all of its modules up. Caddy keeps
// that function to itself, and calling Cleanup module by module would test something else.
func caddyCancel(cfg *caddy.Config) {
	field := reflect.ValueOf(cfg).Elem().FieldByName("cancelFunc")
	cancel := reflect.NewAt(field.Type(), field.Addr().UnsafePointer()).Elem().Interface().(context.CancelCauseFunc)
	cancel(errors.New("the test is over"))
}
