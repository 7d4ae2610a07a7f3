package jobs_test

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/jobs"
	"github.com/gatehouse-proxy/gatehouse/backends/jobs/jobstest"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

// examined is the configuration that the examiner asks for.
func examined() jobs.Config {
	return jobs.Config{
		Queues: map[string]jobs.Queue{
			"examine":         {Attempts: 3, Backoff: jobs.Backoff{Fixed: true, Base: 50 * time.Millisecond}},
			"examine-pull":    {Pull: true, Attempts: 3, Backoff: jobs.Backoff{Fixed: true, Base: 50 * time.Millisecond}},
			"examine-full":    {Pull: true, Waiting: 3, KeyWaiting: 2},
			"examine-ordered": {Ordered: true},
		},
		Allow: []string{"127.0.0.1"},
	}
}

// newHost is a host on dir that knows the jobs backend alone. It is closed with the test.
func newHost(t *testing.T, dir string, c jobs.Config) *service.Host {
	t.Helper()
	h, err := service.NewHost(t.Context(), jobs.SettingsOn(t, dir), nil, func(name string) (service.Opener, error) {
		if name != "jobs" {
			return nil, fmt.Errorf("there is no backend %s", name)
		}
		return c, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// start is newHost with the backend opened and running.
func start(t *testing.T, dir string, c jobs.Config) *jobs.Service {
	t.Helper()
	h := newHost(t, dir, c)
	if err := h.Open(t.Context(), "jobs"); err != nil {
		t.Fatal(err)
	}
	return h.Service("jobs").(*jobs.Service)
}

// until waits for a condition.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); <-time.After(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited too long until %s", what)
		}
	}
}

func TestExamined(t *testing.T) {
	t.Parallel()
	h := newHost(t, t.TempDir(), examined())
	if err := h.Open(t.Context(), "jobs"); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(h.Service("jobs"))
	defer server.Close()
	key, err := h.GeneratedKey("jobs-signing", func() ([]byte, error) { return nil, errors.New("there is none") })
	if err != nil {
		t.Fatal(err)
	}
	jobstest.Examine(t, server.URL, server.Client(), jobstest.Options{SigningKey: string(key.Newest().Value.Reveal())})
}

func TestZeroConfigWorks(t *testing.T) {
	s := start(t, t.TempDir(), jobs.Config{})
	if err := s.Check(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, ok := s.QueueTarget("default"); ok {
		t.Error("the default queue has a target that nobody gave it")
	}
}
