package jobs

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func (s *Service) notify(t *testing.T, topic, payload string) {
	t.Helper()
	s.exec(t, "INSERT INTO river_notification (topic, payload) VALUES (?, ?)", topic, payload)
}

func TestListener(t *testing.T) {
	s := still(t, Config{})
	l := &listener{read: s.db.Read, wake: newWaker()}
	next := func() string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		n, err := l.WaitForNotification(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return n.Topic + " " + n.Payload
	}
	if err := l.Listen(t.Context(), "a"); err == nil {
		t.Error("a closed listener listens")
	}
	for range 2 { // it is connected again after a fault
		s.notify(t, "a", "before it connected")
		if err := l.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := l.Connect(t.Context()); err == nil {
			t.Error("connected twice")
		}
		if err := l.Listen(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		s.notify(t, "b", "another topic")
		s.notify(t, "a", "1")
		s.notify(t, "a", "2")
		l.wake.look()
		for _, want := range []string{"a 1", "a 2"} {
			if got := next(); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
		s.notify(t, "a", "3") // found by polling
		if got := next(); got != "a 3" {
			t.Errorf("got %q, want the third", got)
		}
		for range outboxBatch + 3 {
			s.notify(t, "a", "many")
		}
		for range outboxBatch + 3 {
			if got := next(); got != "a many" {
				t.Errorf("got %q", got)
			}
		}
		if err := l.Unlisten(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		s.notify(t, "a", "not listened to")
		l.wake.poke("q1", "q2")
		l.wake.poke("q1")
		l.wake.look()
		for _, want := range []string{`river_insert {"queue":"q1"}`, `river_insert {"queue":"q2"}`} {
			if got := next(); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
		ended, cancel := context.WithTimeout(t.Context(), 2*outboxPoll)
		if n, err := l.WaitForNotification(ended); err == nil {
			t.Errorf("got %+v, want to wait until the context ends", n)
		}
		cancel()
		if err := l.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPokeAt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWaker()
		start := time.Now()
		w.pokeAt(start.Add(3*time.Second), "q")
		<-w.signal
		if queue, outbox := w.next(); queue != "q" || outbox || time.Since(start) != 3*time.Second+time.Millisecond {
			t.Errorf("got %q, %v after %s", queue, outbox, time.Since(start))
		}
		w.pokeAt(start, "late")
		<-w.signal
		if queue, _ := w.next(); queue != "late" {
			t.Errorf("got %q", queue)
		}
	})
}
