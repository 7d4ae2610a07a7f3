package gatehouse_test

import (
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/gatehouse-proxy/gatehouse/internal/redisconn"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
	"github.com/gatehouse-proxy/gatehouse/modules/gatehouse"
)

func TestRedisIsOpenedOnceAndGivenBack(t *testing.T) {
	if _, ok := new(gatehouse.App).Redis(); ok {
		t.Error("there is a redis although none is configured")
	}
	a := &gatehouse.App{Settings: service.Settings{Redis: &redisconn.Config{Addresses: []string{"redis://127.0.0.1:1"}}}}
	first, ok := a.Redis()
	again, ok2 := a.Redis()
	if !ok || !ok2 || first != again {
		t.Error("the second call gives another connection")
	}
	if err := a.Cleanup(); err != nil {
		t.Fatal(err)
	}
	if _, ok := a.Redis(); ok {
		t.Error("a configuration that has gone opens a connection")
	}
}

func TestProvisionChecksRedis(t *testing.T) {
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	defer cancel()
	for want, c := range map[string]redisconn.Config{
		"must agree":              {Addresses: []string{"redis://a", "rediss://b"}},
		"no secret is configured": {Addresses: []string{"redis://a"}, Password: "redis"},
	} {
		a := &gatehouse.App{Settings: service.Settings{Redis: &c}}
		if err := a.Provision(ctx); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
