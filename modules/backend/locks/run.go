package locks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/gatehouse-proxy/gatehouse/modules/internal/command"
)

// The exit codes of our own besides those that all commands have.
const (
	exitHeld = 75 // EX_TEMPFAIL: another has the lock
	exitLost = 76 // the lock was lost, and the command stopped
)

// othersEvery is how often it is looked whether processes of a stopped command are still there.
const othersEvery = 50 * time.Millisecond

// runner runs a command while it holds a lock.
type runner struct {
	api              *api
	name             string
	ttl, wait, grace time.Duration
	skipOK           bool
	args             []string
	say              func(format string, args ...any) // one line for people
}

// run returns the exit code, with an error where gatehouse itself could not do its part.
func (r *runner) run(ctx context.Context) (int, error) {
	file, code, err := find(r.args[0])
	if err != nil {
		return 0, command.Coded(fmt.Errorf("the command cannot be run: %w", err), max(code, exitCannotRun))
	}
	got, stop := signals()
	defer stop()
	l, since, ended, err := r.acquire(ctx, got)
	switch other, held := isHeld(err); {
	case ended != 0:
		return exitSignal + int(ended), nil
	case held && r.skipOK:
		r.say("%s", r.heldBy(other))
		return 0, nil
	case held:
		return 0, command.Coded(errors.New(r.heldBy(other)), exitHeld)
	case err != nil:
		return 0, err
	}
	c, err := startChild(file, r.args, []string{"GATEHOUSE_LOCK_NAME=" + r.name, "GATEHOUSE_LOCK_FENCE=" + strconv.FormatInt(l.Fence, 10)})
	if err != nil {
		r.release(ctx, l)
		return 0, command.Coded(fmt.Errorf("the command cannot be run: %w", err), exitCannotRun)
	}
	lost := r.guard(ctx, c, l, since, got)
	if lost {
		_ = r.api.release(ctx, l) // it may be ours for a while yet
		return exitLost, nil
	}
	r.release(ctx, l)
	return c.code(), nil
}

func (r *runner) heldBy(other *refusal) string {
	s := "the lock " + r.name + " is held by another"
	if !other.expiresAt.IsZero() {
		s += " until " + other.expiresAt.Format(time.RFC3339)
	}
	return s + ": the command was not run"
}

// acquire takes the lock. A signal that ends a program ends the wait, and is returned.
func (r *runner) acquire(ctx context.Context, got <-chan os.Signal) (l held, since time.Time, ended syscall.Signal, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		l, since, err = r.api.acquire(ctx, r.name, r.ttl, r.wait)
	}()
	for {
		select {
		case <-done:
			if ended != 0 && err == nil { // both at once
				r.release(context.WithoutCancel(ctx), l)
			}
			return l, since, ended, err
		case s := <-got:
			if ended == 0 {
				ended, _ = s.(syscall.Signal)
			}
			cancel()
		}
	}
}

// guard renews the lock until the command has ended, and passes signals on. When the lock is lost it
// stops the command and says so.
func (r *runner) guard(ctx context.Context, c *child, l held, since time.Time, got <-chan os.Signal) (lost bool) {
	ctx, cancel := context.WithCancel(ctx)
	kept := make(chan error, 1)
	k := keeper{r.ttl, func(ctx context.Context) error { return r.api.renew(ctx, l, r.ttl) }}
	var keeping sync.WaitGroup
	keeping.Go(func() { kept <- k.keep(ctx, since) })
	defer keeping.Wait() // so that no renewal comes after the release
	defer cancel()
	var kill, others <-chan time.Time
	ended := c.done
	for {
		select {
		case <-ended:
			if !lost || !c.others() {
				return lost
			}
			ended = nil // what it has started is to end too
			tick := time.NewTicker(othersEvery)
			defer tick.Stop()
			others = tick.C
		case <-others:
			if !c.others() {
				return true
			}
		case s := <-got:
			c.pass(s)
		case err := <-kept:
			lost = true
			r.say("stopping the command, lock %s: %v", r.name, err)
			c.signal(syscall.SIGTERM)
			kill = time.After(r.grace)
		case <-kill:
			r.say("killing the command, it did not end within %s", r.grace)
			c.signal(syscall.SIGKILL)
			if ended == nil {
				return true
			}
		}
	}
}

// release gives the lock back after the command.
func (r *runner) release(ctx context.Context, l held) {
	switch err := r.api.release(ctx, l); {
	case errors.Is(err, errLost):
		r.say("lock %s had ended before the command did: %v", r.name, err)
	case err != nil:
		r.say("lock %s could not be released, it ends by itself within %s: %v", r.name, r.ttl, err)
	}
}

// lines prints what there is to say, as a line of text or of JSON.
func lines(w io.Writer, asJSON bool) func(format string, args ...any) {
	return func(format string, args ...any) {
		text := fmt.Sprintf(format, args...)
		if asJSON {
			_ = json.NewEncoder(w).Encode(map[string]string{"message": text})
			return
		}
		_, _ = fmt.Fprintln(w, "gatehouse: "+text)
	}
}
