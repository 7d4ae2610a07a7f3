package gatehouse_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/gatehouse-proxy/gatehouse/integration/await"
	"github.com/gatehouse-proxy/gatehouse/internal/secret/source"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
	"github.com/gatehouse-proxy/gatehouse/modules/gatehouse"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
)

const secretSite = `{
	gatehouse {
		data_dir @@data@@/state
		secret   jwt file @@data@@/jwt
	}
}
:80 {
	backend probe
}
`

func TestARotatedSecretRestartsNothing(t *testing.T) {
	dir := t.TempDir()
	write := func(value string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "jwt"), []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("one")
	first, err := modtest.StartIn(t, dir, secretSite)
	if err != nil {
		t.Fatal(err)
	}
	before := first.Get("/").Header.Get("Instance")
	write("two")
	second, err := modtest.StartIn(t, dir, "# a line\n"+secretSite)
	if err != nil {
		t.Fatal(err)
	}
	first.Stop()
	if got := second.Get("/").Header.Get("Instance"); got != before {
		t.Errorf("a rotated secret replaced the backend: %s, then %s", before, got)
	}
	third, err := modtest.StartIn(t, dir, strings.Replace(secretSite, "@@data@@/jwt", "@@data@@/jwt {\n\t\t\toverlap 1h\n\t\t}", 1))
	if err != nil {
		t.Fatal(err)
	}
	if got := third.Get("/").Header.Get("Instance"); got == before {
		t.Error("another source left the old backend in place")
	}
}

func TestASecretIsLiveInProvision(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "jwt")
	if err := os.WriteFile(file, []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	defer cancel()
	a := &gatehouse.App{Settings: service.Settings{DataDir: dir, Secrets: map[string]source.Source{"jwt": {File: file}}}}
	if err := a.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	set, err := a.Secret("jwt")
	if err != nil || string(set.Newest().Value.Reveal()) != "one" {
		t.Fatalf("got %v, %v", set, err)
	}
	if err = os.WriteFile(file, []byte("two"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err = set.Refresh(t.Context()); err != nil || string(set.Newest().Value.Reveal()) != "two" {
		t.Errorf("refreshed it is not the new value, %v", err)
	}
	if err = a.Cleanup(); err != nil {
		t.Fatal(err)
	}
}

func TestAFailingSourceIsSeen(t *testing.T) {
	dir := t.TempDir()
	write := func(value string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "jwt"), []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("one")
	g, err := modtest.StartIn(t, dir, secretSite)
	if err != nil {
		t.Fatal(err)
	}
	ctx := g.Context()
	failing := func() error {
		families, err := ctx.GetMetricsRegistry().Gather()
		if err != nil {
			return err
		}
		got := map[string]float64{}
		for _, f := range families {
			if name, ours := strings.CutPrefix(f.GetName(), "gatehouse_secret_"); ours {
				got[name] = f.GetMetric()[0].GetGauge().GetValue()
			}
		}
		if got["failing"] != 1 || got["versions"] != 1 || got["age_seconds"] <= 0 {
			return fmt.Errorf("the metrics are %v", got)
		}
		return nil
	}
	if failing() == nil {
		t.Error("a good source is failing")
	}
	write("\n")
	await.For(t, "the metrics", failing)
	if got := g.Get("/").StatusCode; got != http.StatusOK {
		t.Errorf("got %d", got)
	}
}
