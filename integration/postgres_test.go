package integration

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/integration/pgtest"
)

// onPostgres makes an instance of the gateway whose rows are at url. serve runs it.
func onPostgres(t *testing.T, url string) (e *example, caddyfile string) {
	t.Helper()
	e = &example{dir: t.TempDir(), admin: "127.0.0.1:" + freePort(t), database: url}
	port := freePort(t)
	e.base = "http://127.0.0.1:" + port
	caddyfile = fmt.Sprintf(inProcess, e.admin, e.dir, port)
	return e, strings.Replace(caddyfile, "/data\n", "/data\n\t\tdatabase "+url+"\n", 1)
}

func TestExaminersOnPostgres(t *testing.T) {
	t.Parallel()
	e, caddyfile := onPostgres(t, pgtest.Start(t, pgtest.Fast).URL)
	e.serve(t, caddyfile)
	e.examine(t, e.inGateway())
	if left, err := filepath.Glob(filepath.Join(e.dir, "data", "*.db")); err != nil || len(left) > 0 {
		t.Errorf("there is an SQLite file beside PostgreSQL: %v, %v", left, err)
	}
}

// TestInstancesShareOnePostgres drives two instances that have nothing in common but the database.
func TestInstancesShareOnePostgres(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	instance := func() *example {
		e, caddyfile := onPostgres(t, server.URL)
		e.serve(t, strings.Replace(caddyfile, "backend webhooks", "backend uploads {\n\t\t\tallow text/plain\n\t\t}\n\t\tbackend webhooks", 1))
		return e
	}
	one, two := instance(), instance()
	token := one.gatehouse(t, "", "token", "mint", "--sub", "ann", "--database", server.URL)

	t.Run("users-and-keys", func(t *testing.T) {
		one.gatehouse(t, "correct horse battery\n", "users", "add", "ada@example.com", "--database", server.URL)
		status, body := call(t, "POST", one.base+"/login", "", `{"email":"ada@example.com","password":"correct horse battery"}`)
		if status != http.StatusOK {
			t.Fatalf("login: %d %s", status, body)
		}
		for _, token := range []string{field(t, body, "token"), two.gatehouse(t, "", "token", "mint", "--sub", "ada", "--database", server.URL)} {
			for _, e := range []*example{one, two} {
				if status, body = call(t, "GET", e.base+"/uploads/none", token, ""); status != http.StatusNotFound {
					t.Errorf("the token of one instance at the other: %d %s, want 404", status, body)
				}
			}
		}
	})
	t.Run("locks", func(t *testing.T) {
		if status, body := call(t, "POST", one.base+"/locks/shared", "", `{"ttl":"1h"}`); status != http.StatusOK {
			t.Fatalf("locking: %d %s", status, body)
		}
		if status, body := call(t, "POST", two.base+"/locks/shared", "", `{"ttl":"1s"}`); status != http.StatusConflict {
			t.Errorf("the lock is free at the other instance: %d %s", status, body)
		}
	})
	t.Run("flags", func(t *testing.T) {
		if status, body := call(t, "PUT", one.base+"/flags/shared", "", `{"enabled":true,"percentage":100}`); status != http.StatusCreated {
			t.Fatalf("setting a flag: %d %s", status, body)
		}
		eventually(t, 5*time.Second, func() error {
			status, body := call(t, "POST", two.base+"/ofrep/v1/evaluate/flags/shared", "", `{"context":{"targetingKey":"ann"}}`)
			if status != http.StatusOK || !strings.Contains(body, `"value":true`) {
				return fmt.Errorf("the flag at the other instance: %d %s", status, body)
			}
			return nil
		})
	})
	t.Run("cache", func(t *testing.T) {
		if status, body := call(t, "PUT", one.base+"/cache/shared?tag=red", "", `"v"`); status != http.StatusCreated {
			t.Fatalf("putting: %d %s", status, body)
		}
		if status, body := call(t, "GET", two.base+"/cache/shared", "", ""); status != http.StatusOK || body != `"v"` {
			t.Errorf("the value at the other instance: %d %s", status, body)
		}
		if status, body := call(t, "POST", two.base+"/cache/invalidate", "", `{"tags":["red"]}`); status != http.StatusOK {
			t.Errorf("invalidating: %d %s", status, body)
		}
		if status, body := call(t, "GET", one.base+"/cache/shared", "", ""); status != http.StatusNotFound {
			t.Errorf("an invalidated value at the other instance: %d %s", status, body)
		}
	})
	t.Run("uploads", func(t *testing.T) {
		id, _ := uploadText(t, one, token, "shared")
		if status, body := call(t, "GET", two.base+"/uploads/"+id, token, ""); status != http.StatusOK || field(t, body, "state") != "ready" {
			t.Errorf("the upload at the other instance: %d %s", status, body)
		}
	})
	t.Run("webhooks", func(t *testing.T) {
		came := make(chan string, 10)
		sink := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			came <- string(b)
		}))
		defer sink.Close()
		status, body := call(t, "POST", one.base+"/endpoints", "", `{"url":"`+sink.URL+`"}`)
		if status != http.StatusCreated {
			t.Fatalf("making an endpoint: %d %s", status, body)
		}
		for i, e := range []*example{two, one} { // the second is a duplicate
			if status, body = call(t, "POST", e.base+"/events", "", `{"type":"order.created","payload":1,"id":"evt_shared"}`); status != http.StatusAccepted || strings.Contains(body, "duplicate") != (i == 1) {
				t.Errorf("event %d: %d %s", i, status, body)
			}
		}
		select {
		case b := <-came:
			if !strings.Contains(b, "order.created") {
				t.Errorf("got %s", b)
			}
		case <-time.After(20 * time.Second):
			t.Error("the event was not delivered")
		}
	})
	t.Run("the-server-goes-and-comes", func(t *testing.T) {
		server.Kill()
		for _, path := range []string{"/locks/shared", "/deliveries", "/cache/shared", "/uploads/none"} {
			begun := time.Now()
			status, body := call(t, "GET", one.base+path, token, "")
			if status != http.StatusServiceUnavailable || !strings.Contains(body, "unavailable") {
				t.Errorf("%s without the database: %d %s, want 503", path, status, body)
			}
			if took := time.Since(begun); took > 6*time.Second {
				t.Errorf("%s without the database took %s", path, took)
			}
		}
		server.Restart()
		for _, e := range []*example{one, two} {
			eventually(t, 10*time.Second, func() error {
				if status, body := call(t, "POST", e.base+"/locks/shared", "", `{"ttl":"1s"}`); status != http.StatusConflict {
					return fmt.Errorf("the lock after the restart: %d %s, want 409", status, body)
				}
				return nil
			})
		}
	})
}

// TestTheGatewayWithoutItsDatabase starts where no PostgreSQL answers.
func TestTheGatewayWithoutItsDatabase(t *testing.T) {
	t.Setenv("TEST_DB_PASSWORD", "hunter2")
	e, _ := onPostgres(t, "")
	config := fmt.Sprintf(inProcess, e.admin, e.dir, freePort(t))
	config = strings.Replace(config, "/data\n", "/data\n\t\tsecret db env TEST_DB_PASSWORD\n\t\tdatabase postgres://app@127.0.0.1:1/orders {\n\t\t\tpassword db\n\t\t}\n", 1)
	file := filepath.Join(e.dir, "Caddyfile")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), binary(t, "gatehouse"), "run", "--config", file, "--adapter", "caddyfile").CombinedOutput()
	if err == nil {
		t.Error("the exit code is zero")
	}
	if want := "the PostgreSQL database orders on 127.0.0.1 cannot be reached"; !strings.Contains(string(out), want) || strings.Contains(string(out), "hunter2") {
		t.Errorf("the output has no %q, or the password:\n%s", want, tail(string(out), 5))
	}
}
