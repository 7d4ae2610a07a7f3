package redisconn_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/gatehouse-proxy/gatehouse/integration/redistest"
	"github.com/gatehouse-proxy/gatehouse/internal/redisconn"
	"github.com/gatehouse-proxy/gatehouse/internal/secret"
)

// vault is a source of passwords that a test changes.
type vault struct {
	set *secret.Set

	mu    sync.Mutex
	next  []secret.Version
	reads int
}

// newVault is a set with the passwords, newest first.
func newVault(passwords ...string) *vault {
	v := &vault{set: secret.NewSet("redis")}
	v.set.Reread = func(context.Context) error {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.reads++
		if v.next != nil {
			v.set.Replace(v.next)
		}
		return nil
	}
	v.put(passwords...)
	v.set.Replace(v.next)
	return v
}

// put changes what is in the source; the set has it when the source is read again.
func (v *vault) put(passwords ...string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.next = nil
	for _, p := range passwords {
		v.next = append(v.next, secret.Version{Label: "label of " + p, Value: secret.NewValue([]byte(p))})
	}
}

func (v *vault) named(string) (*secret.Set, error) { return v.set, nil }

func (v *vault) connect(t *testing.T, c redisconn.Config) redis.UniversalClient {
	t.Helper()
	conn, err := redisconn.New(c, v.named)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn.Client()
}

// fresh runs a command on a network connection that is made for it.
func fresh(t *testing.T, c redisconn.Config, v *vault) error {
	t.Helper()
	return v.connect(t, c).Incr(t.Context(), "n").Err()
}

func setPassword(t *testing.T, admin *redis.Client, user, password string) {
	t.Helper()
	if err := admin.Do(t.Context(), "acl", "setuser", user, "on", "resetpass", ">"+password, "~*", "+@all").Err(); err != nil {
		t.Fatal(err)
	}
}

func TestThePasswordChanges(t *testing.T) {
	s := redistest.Start(t)
	setPassword(t, s.Client(), "app", "one")
	c := redisconn.Config{Addresses: []string{"redis://app@" + s.Addr + "/3"}, Password: "redis"}
	v := newVault("one")
	old := v.connect(t, c)
	check := func(when string) {
		t.Helper()
		if err := old.Incr(t.Context(), "n").Err(); err != nil {
			t.Errorf("%s an open connection: %v", when, err)
		}
		if err := fresh(t, c, v); err != nil {
			t.Errorf("%s a new connection: %v", when, err)
		}
	}
	check("at first")
	if v.set.Newest().LastUsed().IsZero() {
		t.Error("the use of the password is not marked")
	}
	setPassword(t, s.Client(), "app", "two")
	v.put("two", "one")
	check("when redis changed before the set was read,")
	if v.reads != 1 {
		t.Errorf("the source was read %d times, want once", v.reads)
	}
	v.put("three", "two")
	if err := v.set.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	check("when the source changed before redis,")
	setPassword(t, s.Client(), "app", "three")
	check("when both have changed,")

	setPassword(t, s.Client(), "app", "sesame")
	if err := old.Incr(t.Context(), "n").Err(); err != nil {
		t.Errorf("an open connection: %v", err)
	}
	err := fresh(t, c, v)
	if err == nil || !strings.Contains(err.Error(), "refuses every active version of the secret redis") {
		t.Errorf("got %v", err)
	}
	if text := err.Error(); slices.ContainsFunc([]string{"two", "three", "sesame"}, func(p string) bool { return strings.Contains(text, p) }) {
		t.Errorf("the error holds a password: %v", err)
	}
}

func TestRequirepassChanges(t *testing.T) {
	s := redistest.Start(t)
	admin := s.Client()
	c := redisconn.Config{Addresses: []string{"redis://" + s.Addr}, Password: "redis"}
	v := newVault("one")
	if err := fresh(t, c, v); err != nil {
		t.Errorf("a server without a password: %v", err)
	}
	old := v.connect(t, c)
	for _, next := range []string{"one", "two"} {
		if err := admin.ConfigSet(t.Context(), "requirepass", next).Err(); err != nil {
			t.Fatal(err)
		}
		v.put(next)
		if err := fresh(t, c, v); err != nil {
			t.Errorf("%s: %v", next, err)
		}
		if err := old.Incr(t.Context(), "n").Err(); err != nil {
			t.Errorf("%s on an open connection: %v", next, err)
		}
	}
	if err := fresh(t, redisconn.Config{Addresses: c.Addresses}, v); err == nil || !strings.Contains(err.Error(), "NOAUTH") {
		t.Errorf("without a password: %v", err)
	}
	if err := fresh(t, c, newVault()); err == nil || !strings.Contains(err.Error(), "holds no password that is active") {
		t.Errorf("with an empty set: %v", err)
	}
}

func TestThePasswordOfAClusterChanges(t *testing.T) {
	cluster := redistest.StartCluster(t)
	all := slices.Concat(cluster.Masters, cluster.Replicas)
	v := newVault("one")
	c := redisconn.Config{Addresses: []string{"redis://app@" + cluster.Masters[0].Addr}, Cluster: true, Password: "redis"}
	for _, password := range []string{"one", "two"} {
		for _, s := range all {
			setPassword(t, s.Client(), "app", password)
		}
		v.put(password)
		client := v.connect(t, c)
		for _, key := range []string{"a", "b", "c", "d", "e", "f"} {
			if err := client.Incr(t.Context(), key).Err(); err != nil {
				t.Errorf("%s with the password %s: %v", key, password, err)
			}
		}
	}
}

func TestThePasswordsBehindSentinelsChange(t *testing.T) {
	s := redistest.StartSentinel(t)
	v, guard := newVault("one"), newVault("guard-one")
	secrets := func(name string) (*secret.Set, error) {
		switch name {
		case "redis":
			return v.set, nil
		case "sentinel":
			return guard.set, nil
		}
		return nil, errors.New("unknown")
	}
	c := redisconn.Config{Sentinel: s.Name, Addresses: s.Addrs(), Server: "redis://app@/2", Password: "redis", SentinelPassword: "sentinel"}
	for _, n := range []string{"one", "two"} {
		setPassword(t, s.Master.Client(), "app", n)
		v.put(n)
		guard.put("guard-" + n)
		for _, sentinel := range s.Sentinels {
			admin := redis.NewClient(&redis.Options{Addr: sentinel.Addr, Protocol: 2, Password: map[string]string{"two": "guard-one"}[n]})
			if err := admin.Do(t.Context(), "acl", "setuser", "default", "resetpass", ">guard-"+n).Err(); err != nil {
				t.Fatal(err)
			}
			_ = admin.Close()
		}
		conn, err := redisconn.New(c, secrets)
		if err != nil {
			t.Fatal(err)
		}
		if err = conn.Client().Incr(t.Context(), "n").Err(); err != nil {
			t.Errorf("%s: %v", n, err)
		}
		conn.Close()
	}
}

func TestAConnectionIsOneForItsSets(t *testing.T) {
	v, other := newVault("one"), newVault("one")
	c := redisconn.Config{Addresses: []string{"redis://127.0.0.1:1"}, Password: "redis"}
	first, err := redisconn.Open(c, v.named)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	v.set.Replace([]secret.Version{{Label: "b", Value: secret.NewValue([]byte("two"))}})
	second, err := redisconn.Open(c, v.named)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if first != second {
		t.Error("a rotated password makes another connection")
	}
	third, err := redisconn.Open(c, other.named)
	if err != nil {
		t.Fatal(err)
	}
	defer third.Close()
	if third == first {
		t.Error("another set shares the connection")
	}
}
