package locks

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// renewals is a gateway that answers renewals, and when it was asked.
type renewals struct {
	began time.Time
	at    []time.Duration
	do    func(ctx context.Context, at time.Duration) error
}

func (r *renewals) renew(ctx context.Context) error {
	at := time.Since(r.began)
	r.at = append(r.at, at)
	return r.do(ctx, at)
}

// kept runs a keeper of a lock of 30 s, until then if it does not end before.
func kept(t *testing.T, until time.Duration, do func(ctx context.Context, at time.Duration) error) (*renewals, error) {
	t.Helper()
	r := &renewals{began: time.Now(), do: do}
	ctx, cancel := context.WithTimeout(t.Context(), until)
	defer cancel()
	return r, keeper{30 * time.Second, r.renew}.keep(ctx, r.began)
}

func TestKeepRenewsAfterAThird(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, err := kept(t, 45*time.Second, func(context.Context, time.Duration) error { return nil })
		if err != nil || len(r.at) != 4 || r.at[0] != 10*time.Second || r.at[3] != 40*time.Second {
			t.Errorf("got %v and renewals at %v", err, r.at)
		}
	})
}

func TestKeepEndsWhenTheLockIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, err := kept(t, time.Hour, func(_ context.Context, at time.Duration) error {
			if at > 15*time.Second {
				return errLost
			}
			return nil
		})
		if !errors.Is(err, errLost) || time.Since(r.began) != 20*time.Second {
			t.Errorf("got %v after %s", err, time.Since(r.began))
		}
	})
}

func TestKeepBearsAGatewayThatIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		away := errors.New("connection refused")
		r, err := kept(t, 2*time.Minute, func(_ context.Context, at time.Duration) error {
			if at >= 10*time.Second && at < 24*time.Second {
				return away
			}
			return nil
		})
		if err != nil || r.at[1] != 12*time.Second || r.at[7] != 24*time.Second || r.at[8] != 34*time.Second {
			t.Errorf("got %v and renewals at %v", err, r.at)
		}
	})
}

func TestKeepGivesUpBeforeTheEnd(t *testing.T) {
	for name, do := range map[string]func(context.Context, time.Duration) error{
		"away":   func(context.Context, time.Duration) error { return errors.New("connection refused") },
		"silent": func(ctx context.Context, _ time.Duration) error { <-ctx.Done(); return ctx.Err() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, err := kept(t, time.Hour, do)
				if !errors.Is(err, errLost) || time.Since(r.began) != 25*time.Second {
					t.Errorf("got %v after %s, want it lost after 25 s", err, time.Since(r.began))
				}
			})
		})
	}
}

// TestKeepAsksNotAfterAPause begins late, as a process that was stopped does.
func TestKeepAsksNotAfterAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &renewals{began: time.Now().Add(-time.Minute), do: func(context.Context, time.Duration) error { return nil }}
		if err := (keeper{30 * time.Second, r.renew}).keep(t.Context(), r.began); !errors.Is(err, errLost) || len(r.at) > 0 {
			t.Errorf("got %v and renewals at %v", err, r.at)
		}
	})
}
