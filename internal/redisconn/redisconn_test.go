package redisconn_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gatehouse-proxy/gatehouse/integration/redistest"
	"github.com/gatehouse-proxy/gatehouse/internal/redisconn"
	"github.com/gatehouse-proxy/gatehouse/internal/secret"
)

func secrets(name string) (*secret.Set, error) {
	if name != "redis" {
		return nil, errors.New("unknown secret: " + name)
	}
	return secret.NewSet(name, secret.Version{Value: secret.NewValue([]byte("from-a-secret"))}), nil
}

func TestCheckTakes(t *testing.T) {
	for _, c := range []redisconn.Config{
		{Addresses: []string{"redis://127.0.0.1:6379/0"}},
		{Addresses: []string{"redis://localhost"}},
		{Addresses: []string{"rediss://user:p%40ss@[::1]:6380/15"}},
		{Addresses: []string{"redis://:pass@h:1"}},
		{Addresses: []string{"redis://a:6379", "redis://b:6379"}},
		{Addresses: []string{"rediss://u:p@a:6379", "rediss://b:6379", "rediss://u:p@c:6379"}},
		{Addresses: []string{"redis://a:6379"}, Cluster: true},
		{Addresses: []string{"redis://app@h"}, Password: "redis"},
		{Sentinel: "m", Addresses: []string{"s1:26379", "[::1]:26379"}},
		{Sentinel: "m", Addresses: []string{"s1:26379"}, Server: "rediss://app@/2", Password: "redis", SentinelPassword: "redis"},
		{Sentinel: "m", Addresses: []string{"s1:26379"}, Server: "redis:///1"},
	} {
		if err := c.Check(secrets); err != nil {
			t.Errorf("%v: %v", c, err)
		}
	}
}

func TestCheckRefuses(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for want, c := range map[string]redisconn.Config{
		"an address is missing":       {},
		"does not begin with":         {Addresses: []string{"http://h"}},
		"does not begin with redis":   {Addresses: []string{"h:6379"}},
		"is not a URL":                {Addresses: []string{"redis://u:sesame#%zz@h"}},
		"has no host":                 {Addresses: []string{"redis:///0"}},
		"has no // after":             {Addresses: []string{"redis:h"}},
		"no valid port":               {Addresses: []string{"redis://h:0"}},
		"no valid port:":              {Addresses: []string{"redis://u:sesame@h:70000"}},
		"not the number":              {Addresses: []string{"redis://h/x"}},
		"not the number of":           {Addresses: []string{"redis://h/-1"}},
		"has parameters":              {Addresses: []string{"redis://h/0?password=sesame"}},
		"has no databases":            {Addresses: []string{"redis://a/1", "redis://b/1"}},
		"must agree":                  {Addresses: []string{"redis://a", "rediss://b"}},
		"must agree in":               {Addresses: []string{"redis://a", "redis://u:sesame@b"}},
		"given twice":                 {Addresses: []string{"redis://u:sesame@a"}, Password: "redis"},
		"unknown secret":              {Addresses: []string{"redis://a"}, Password: "rediss"},
		"sentinel_password is for":    {Addresses: []string{"redis://a"}, SentinelPassword: "redis"},
		"server is for":               {Addresses: []string{"redis://a"}, Server: "redis:///1"},
		"must be host:port":           {Sentinel: "m", Addresses: []string{"redis://u:sesame@a:1"}},
		"must be host:port: write":    {Sentinel: "m", Addresses: []string{"a"}},
		"has a host":                  {Sentinel: "m", Addresses: []string{"a:1"}, Server: "redis://u:sesame@h/1"},
		"watch no Cluster":            {Sentinel: "m", Addresses: []string{"a:1"}, Cluster: true},
		"ca is for TLS only":          {Addresses: []string{"redis://a"}, CA: empty},
		"cannot be read":              {Addresses: []string{"rediss://a"}, CA: empty + "x"},
		"holds no certificate in PEM": {Addresses: []string{"rediss://a"}, CA: empty},
	} {
		err := c.Check(secrets)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "sesame") {
			t.Errorf("%v: got %v, want %q", c, err, want)
		}
	}
}

func TestAPasswordIsNeverPrinted(t *testing.T) {
	for _, address := range []string{"redis://u:sesame@h:1/2", "redis://:sesame@h", "u:sesame@h", "redis://h?password=sesame", "redis://u:ses@sesame@h", "redis://u:/sesame@h", "redis://u:sesame", "rediss://u:sesame#@h"} {
		c := redisconn.Config{Addresses: []string{address}, Server: address}
		var log bytes.Buffer
		slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "redis", c, "pointer", &c)
		err := c.Check(secrets)
		for _, s := range []string{c.String(), fmt.Sprintf("%v %+v %#v %s %q", c, c, c, c, &c), fmt.Sprintf("%+v", struct{ C redisconn.Config }{c}), log.String(), fmt.Sprint(err)} {
			if strings.Contains(s, "sesame") {
				t.Errorf("%s is printed as %s", address, s)
			}
		}
	}
}

func FuzzAPasswordIsNeverPrinted(f *testing.F) {
	f.Add("redis://u:", "@h:1/2")
	f.Add("rediss://:", "@h?x=y")
	f.Fuzz(func(t *testing.T, before, after string) {
		if !strings.HasPrefix(after, "@") || strings.ContainsAny(before, "/@?") && !strings.Contains(before, "://") {
			return
		}
		c := redisconn.Config{Addresses: []string{before + "sesame" + after}}
		if s := fmt.Sprint(c, c.Check(nil)); strings.Contains(s, "sesame") && !strings.Contains(before+after, "sesame") && !strings.Contains(after[1:], "@") {
			t.Errorf("%q is printed as %s", c.Addresses, s)
		}
	})
}

func TestHasPassword(t *testing.T) {
	if (redisconn.Config{Addresses: []string{"redis://u@h"}, Password: "redis"}).HasPassword() {
		t.Error("a password by name is taken for one in the configuration")
	}
	if !(redisconn.Config{Addresses: []string{"redis://u:sesame@h"}}).HasPassword() {
		t.Error("a password is not seen")
	}
}

func TestOpenDialsNothingAndIsPooled(t *testing.T) {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	dialled := make(chan struct{}, 10)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
			dialled <- struct{}{}
		}
	}()
	for _, c := range []redisconn.Config{
		{Addresses: []string{"redis://" + l.Addr().String()}},
		{Addresses: []string{"redis://" + l.Addr().String()}, Cluster: true},
		{Addresses: []string{l.Addr().String()}, Sentinel: "m"},
	} {
		a, err := redisconn.Open(c, nil)
		if err != nil {
			t.Fatal(err)
		}
		b, err := redisconn.Open(c, nil)
		if err != nil {
			t.Fatal(err)
		}
		if a != b {
			t.Error("the same configuration has two connections")
		}
		a.Close()
		b.Close()
		again, err := redisconn.Open(c, nil)
		if err != nil || again != a {
			t.Error("opened again at once it is another connection")
		}
		again.Close()
	}
	select {
	case <-dialled:
		t.Error("opening has dialled")
	case <-time.After(50 * time.Millisecond):
	}
}

func TestPasswordsOfTheServer(t *testing.T) {
	s := redistest.Start(t, "--user", "app", "on", ">from-a-secret", "~*", "+@all", "--user", "default", "off")
	for name, c := range map[string]struct {
		config redisconn.Config
		fails  bool
	}{
		"secret":  {redisconn.Config{Addresses: []string{"redis://app@" + s.Addr + "/3"}, Password: "redis"}, false},
		"literal": {redisconn.Config{Addresses: []string{"redis://app:from-a-secret@" + s.Addr}}, false},
		"wrong":   {redisconn.Config{Addresses: []string{"redis://app:sesame@" + s.Addr}}, true},
		"none":    {redisconn.Config{Addresses: []string{"redis://" + s.Addr}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := redisconn.New(c.config, secrets)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err = conn.Client().Set(t.Context(), "a", 1, 0).Err(); (err != nil) != c.fails || err != nil && strings.Contains(err.Error(), "sesame") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	selfSigned(t, cert, key)
	port := redistest.FreePort(t)
	redistest.Start(t, "--tls-port", fmt.Sprint(port), "--tls-cert-file", cert, "--tls-key-file", key, "--tls-auth-clients", "no")
	address := fmt.Sprintf("rediss://127.0.0.1:%d", port)
	for ca, fails := range map[string]bool{cert: false, "": true} {
		conn, err := redisconn.New(redisconn.Config{Addresses: []string{address}, CA: ca}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err = conn.Client().Ping(t.Context()).Err(); (err != nil) != fails {
			t.Errorf("with ca %q: %v", ca, err)
		}
		conn.Close()
	}
}

func selfSigned(t *testing.T, cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "redis"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	pk, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: pk}} {
		if err = os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestManyFailedDialsDelayNothing holds the driver to dialling when it is asked, not once a second.
func TestManyFailedDialsDelayNothing(t *testing.T) {
	s := redistest.Start(t)
	conn, err := redisconn.New(redisconn.Config{Addresses: []string{s.URL()}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	s.Kill()
	for range 300 {
		if err := conn.Client().Ping(t.Context()).Err(); err == nil || errors.Is(err, redis.Nil) {
			t.Fatalf("got %v", err)
		}
	}
	s.Restart()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := conn.Client().Ping(ctx).Err(); err != nil {
		t.Errorf("the first command after the return: %v", err)
	}
}
