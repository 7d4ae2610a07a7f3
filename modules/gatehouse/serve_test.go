package gatehouse

import (
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/gatehouse-proxy/gatehouse/internal/egress"
)

// Caddy keeps its admin settings to itself; this fails where a new version keeps them elsewhere.
func TestAdminAddresses(t *testing.T) {
	for name, tt := range map[string]struct {
		config string
		want   []string
	}{
		"default":   {`{}`, []string{"localhost:2019"}},
		"unnamed":   {`{"admin":{"enforce_origin":true}}`, []string{"localhost:2019"}},
		"port":      {`{"admin":{"listen":"127.0.0.1:3019"}}`, []string{"127.0.0.1:3019"}},
		"anywhere":  {`{"admin":{"listen":":3019"}}`, []string{":3019"}},
		"socket":    {`{"admin":{"listen":"unix//run/admin.sock|0222"}}`, []string{"unix//run/admin.sock|0222"}},
		"remote":    {`{"admin":{"listen":"127.0.0.1:3019","remote":{}}}`, []string{"127.0.0.1:3019", ":2021"}},
		"remote-at": {`{"admin":{"listen":"127.0.0.1:3019","remote":{"listen":":3021"}}}`, []string{"127.0.0.1:3019", ":3021"}},
		"disabled":  {`{"admin":{"disabled":true}}`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var cfg caddy.Config
			if err := caddy.StrictUnmarshalJSON([]byte(tt.config), &cfg); err != nil {
				t.Fatal(err)
			}
			// Provisioning starts nothing, and a remote endpoint would need certificates: the settings are enough.
			if cfg.Admin != nil && cfg.Admin.Remote != nil {
				remote := cfg.Admin.Remote
				cfg.Admin.Remote = nil
				defer func() { cfg.Admin.Remote = remote }()
			}
			ctx, err := caddy.ProvisionContext(&cfg)
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(name, "remote") {
				cfg.Admin.Remote = &caddy.RemoteAdmin{}
				if name == "remote-at" {
					cfg.Admin.Remote.Listen = ":3021"
				}
			}
			var got []string
			for _, address := range adminAddresses(ctx) {
				got = append(got, strings.TrimPrefix(address.String(), "tcp/"))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestListenerOf(t *testing.T) {
	for text, want := range map[string]egress.Listener{
		":443":                     {From: 443, To: 443},
		"127.0.0.1:8000-8010":      {Host: "127.0.0.1", From: 8000, To: 8010},
		"[::1]:80":                 {Host: "::1", From: 80, To: 80},
		"tcp6/localhost:80":        {Host: "localhost", From: 80, To: 80},
		"unix//run/gate.sock|0222": {Socket: "/run/gate.sock"},
	} {
		address, err := caddy.ParseNetworkAddress(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := listenerOf(address); got != want {
			t.Errorf("%s: got %+v, want %+v", text, got, want)
		}
	}
}
