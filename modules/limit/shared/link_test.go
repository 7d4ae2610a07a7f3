package shared

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/redisconn"
)

// lines is a log that may be read while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestALinkIsSharedAndOutlivesItsUsersForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, err := redisconn.New(redisconn.Config{Addresses: []string{"redis://127.0.0.1:1"}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		a, b := Acquire(conn, nil), Acquire(conn, nil)
		if a != b {
			t.Fatal("one connection has two links")
		}
		a.Release()
		b.Release()
		pass(linger / 2)
		if Acquire(conn, nil) != a {
			t.Error("the link was forgotten at once")
		}
		pass(2 * linger)
		if a.ctx.Err() != nil {
			t.Error("a link in use was closed")
		}
		a.Release()
		pass(2 * linger)
		if took, err := take(t.Context(), a); took != 0 || !errors.Is(err, ErrDown) {
			t.Errorf("a closed link: %v after %s", err, took)
		}
		c := Acquire(conn, nil)
		if c == a {
			t.Error("a closed link is given out")
		}
		c.Release()
		pass(2 * linger)
	})
}

func TestTheLogSaysWhenRedisGoesAndComes(t *testing.T) {
	in(t, func(t *testing.T, l *Link, f *fake) {
		var log lines
		l.log.Store(slog.New(slog.NewTextHandler(&log, nil)))
		f.mode.Store(refuses)
		for range 1000 {
			_, _ = take(t.Context(), l)
		}
		pass(10 * time.Second)
		f.mode.Store(answers)
		pass(time.Second)
		got := log.String()
		if strings.Count(got, "\n") != 2 || !strings.Contains(got, `level=WARN msg="redis does not answer`) || !strings.Contains(got, "connection refused") || !strings.Contains(got, `level=INFO msg="redis answers again" after=10.`) {
			t.Errorf("the log says:\n%s", got)
		}
	})
}
