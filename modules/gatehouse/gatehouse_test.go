package gatehouse_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/gatehouse-proxy/gatehouse/internal/service"
	_ "github.com/gatehouse-proxy/gatehouse/modules/backend"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/dispense"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
)

func TestGolden(t *testing.T) { modtest.Golden(t, "testdata") }

// probe is a backend that tells which of its instances answers.
type probe struct {
	Setting string `json:"setting,omitempty"`
	id      int32
}

var opened, stopped atomic.Int32

func init() { caddy.RegisterModule(probe{}) }

func (probe) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "gatehouse.backends.probe", New: func() caddy.Module { return new(probe) }}
}

func (p *probe) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	return dispense.Block(d, "backend probe", dispense.Option{Name: "setting", Parse: func(d *caddyfile.Dispenser) error { return dispense.String(d, &p.Setting) }})
}

func (p *probe) Open(context.Context, *service.Host) (service.Service, error) {
	return &probe{Setting: p.Setting, id: opened.Add(1)}, nil
}

func (p *probe) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Instance", string('0'+p.id))
	w.Header().Set("Subject", r.Header.Get(service.SubjectHeader))
}

func (p *probe) Run(ctx context.Context) error {
	<-ctx.Done()
	stopped.Add(1)
	return nil
}

// sick makes every probe fail its check.
var sick atomic.Bool

func (p *probe) Check(context.Context) error {
	if sick.Load() {
		return errors.New("the probe\nis sick")
	}
	return nil
}

const site = `{
	gatehouse {
		data_dir @@data@@/state
	}
}
:80 {
	backend probe
}
`

func TestReloadKeepsTheRunningBackend(t *testing.T) {
	dir := t.TempDir()
	first, err := modtest.StartIn(t, dir, site)
	if err != nil {
		t.Fatal(err)
	}
	before := first.Get("/").Header.Get("Instance")
	stoppedBefore := stopped.Load()

	if _, err = modtest.StartIn(t, dir, strings.Replace(site, "backend probe", "backend porbe", 1)); err == nil {
		t.Fatal("an unknown backend was accepted")
	}
	if got := first.Get("/").Header.Get("Instance"); got != before {
		t.Errorf("a failed reload replaced the backend: %s, then %s", before, got)
	}

	second, err := modtest.StartIn(t, dir, strings.Replace(site, "backend probe", "header X-New 1\n\tbackend probe", 1))
	if err != nil {
		t.Fatal(err)
	}
	first.Stop()
	if got := second.Get("/").Header.Get("Instance"); got != before {
		t.Errorf("a reload of routes replaced the backend: %s, then %s", before, got)
	}
	if stopped.Load() != stoppedBefore {
		t.Error("a reload of routes stopped the backend's work")
	}

	third, err := modtest.StartIn(t, dir, strings.Replace(site, "@@data@@/state", "@@data@@/state\n\t\tregion eu", 1))
	if err != nil {
		t.Fatal(err)
	}
	if got := third.Get("/").Header.Get("Instance"); got == before {
		t.Error("changed settings left the old backend in place")
	}
}

func TestSubjectComesFromTheGatewayAlone(t *testing.T) {
	g := modtest.Start(t, site)
	if got := g.Get("/", "Gatehouse-Subject", "mallory").Header.Get("Subject"); got != "" {
		t.Errorf("the client's own subject %q reached the backend", got)
	}
}

func TestDataDirErrorsStopTheStart(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "state"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := modtest.StartIn(t, dir, site)
	if err == nil || !strings.Contains(err.Error(), "data_dir "+filepath.Join(dir, "state")) {
		t.Errorf("got %v", err)
	}
}

func TestProvisionTouchesNothing(t *testing.T) {
	dir := t.TempDir()
	raw, err := modtest.Adapt(strings.ReplaceAll(site, "@@data@@", dir))
	if err != nil {
		t.Fatal(err)
	}
	if err = caddy.Validate(modtest.Config(t, raw)); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("validating left %v in the data directory", left)
	}
}

func TestMissingSecretFileNamesItsLine(t *testing.T) {
	_, err := modtest.TryStart(t, "{\n\tgatehouse {\n\t\tsecret jwt file /does/not/exist\n\t}\n}\n:80 {\n\tbackend probe\n}\n")
	if err == nil || !strings.Contains(err.Error(), "secret jwt: the file cannot be read, create it or correct the path: open /does/not/exist: no such file or directory, at Caddyfile:3") {
		t.Errorf("got %v", err)
	}
}
