package identity

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

const (
	maxAttempts = 1_000_000
	// attemptsKept is how many accounts, and how many addresses, are remembered; beyond it those that
	// began to fail first are forgotten.
	attemptsKept = 100_000
)

// Attempts is how many logins may fail in a time. In JSON it is a string such as "10/15m".
type Attempts struct {
	N   int
	Per time.Duration
}

// ParseAttempts reads N/DURATION.
func ParseAttempts(s string) (Attempts, error) {
	number, per, ok := strings.Cut(s, "/")
	n, err := strconv.Atoi(number)
	if !ok || err != nil || n < 1 || n > maxAttempts {
		return Attempts{}, fmt.Errorf("%q is not a number of attempts: write N/DURATION, such as 10/15m, with N from 1 to %d", s, maxAttempts)
	}
	d, err := unit.ParseDuration(per)
	if err != nil {
		return Attempts{}, err
	}
	a := Attempts{n, d.Std()}
	return a, a.validate()
}

func (a Attempts) validate() error {
	if a != (Attempts{}) && (a.N < 1 || a.N > maxAttempts || a.Per < time.Second || a.Per > 24*time.Hour) {
		return fmt.Errorf("attempts must be from 1 to %d in 1s to 24h, not %s", maxAttempts, a)
	}
	return nil
}

func (a Attempts) or(def Attempts) Attempts {
	if a == (Attempts{}) {
		return def
	}
	return a
}

func (a Attempts) String() string { return strconv.Itoa(a.N) + "/" + unit.Duration(a.Per).String() }

// MarshalJSON writes the form that ParseAttempts reads.
func (a Attempts) MarshalJSON() ([]byte, error) { return json.Marshal(a.String()) }

// UnmarshalJSON is ParseAttempts.
func (a *Attempts) UnmarshalJSON(b []byte) (err error) {
	var s string
	if json.Unmarshal(b, &s) != nil {
		return errors.New(`attempts are a string, such as "10/15m"`)
	}
	*a, err = ParseAttempts(s)
	return err
}

// attempts counts the failed logins of this process by account and by client address. It survives changes
// of the configuration.
type attempts struct {
	seed maphash.Seed
	mu   sync.Mutex
	by   [2]window
}

// window counts by key, for each from its first failure on.
type window struct {
	counts map[uint64]*count
	order  []uint64 // the keys by the beginning of their count, with some that have gone
}

type count struct {
	n     int
	began time.Time
}

func newAttempts() *attempts {
	return &attempts{seed: maphash.MakeSeed(), by: [2]window{{counts: map[uint64]*count{}}, {counts: map[uint64]*count{}}}}
}

const byAccount, byAddress = 0, 1

// attempt is a login that counts as failed until it turns out otherwise.
type attempt struct {
	a    *attempts
	keys [2]uint64
}

// begin counts a login, or refuses it with the time that is left until one is let through again.
func (a *attempts) begin(email string, addr netip.Addr, limits [2]Attempts, now time.Time) (attempt, error) {
	t := attempt{a, [2]uint64{maphash.String(a.seed, emailKey(email)), maphash.String(a.seed, network(addr))}}
	a.mu.Lock()
	defer a.mu.Unlock()
	var wait time.Duration
	for i := range a.by {
		wait = max(wait, a.by[i].wait(t.keys[i], limits[i], now))
	}
	if wait > 0 {
		return t, &problem.Error{Code: problem.QuotaExceeded, RetryAfter: wait, Detail: "Too many logins have failed, try again later."}
	}
	for i := range a.by {
		a.by[i].add(t.keys[i], limits[i], now)
	}
	return t, nil
}

// passed takes the attempt back, and the account's failures before it.
func (t attempt) passed() {
	t.a.mu.Lock()
	defer t.a.mu.Unlock()
	delete(t.a.by[byAccount].counts, t.keys[byAccount])
	t.a.by[byAddress].sub(t.keys[byAddress])
}

// untried takes the attempt back: no password was checked.
func (t attempt) untried() {
	t.a.mu.Lock()
	defer t.a.mu.Unlock()
	for i := range t.a.by {
		t.a.by[i].sub(t.keys[i])
	}
}

func (w *window) wait(key uint64, limit Attempts, now time.Time) time.Duration {
	c := w.counts[key]
	if c == nil || c.n < limit.N {
		return 0
	}
	return max(0, c.began.Add(limit.Per).Sub(now))
}

func (w *window) add(key uint64, limit Attempts, now time.Time) {
	c := w.counts[key]
	if c != nil && now.Sub(c.began) < limit.Per {
		c.n++
		return
	}
	if len(w.order) >= 2*attemptsKept {
		w.compact()
	}
	for len(w.counts) >= attemptsKept && len(w.order) > 0 {
		delete(w.counts, w.order[0])
		w.order = w.order[1:]
	}
	w.counts[key] = &count{1, now}
	w.order = append(w.order, key)
}

// compact drops keys from the order that have gone, and of those that stand in it twice the earlier.
func (w *window) compact() {
	seen := make(map[uint64]bool, len(w.counts))
	kept := make([]uint64, 0, len(w.counts))
	for i := len(w.order) - 1; i >= 0; i-- {
		if key := w.order[i]; w.counts[key] != nil && !seen[key] {
			seen[key] = true
			kept = append(kept, key)
		}
	}
	for i, j := 0, len(kept)-1; i < j; i, j = i+1, j-1 {
		kept[i], kept[j] = kept[j], kept[i]
	}
	w.order = kept
}

func (w *window) sub(key uint64) {
	if c := w.counts[key]; c != nil {
		if c.n--; c.n <= 0 {
			delete(w.counts, key)
		}
	}
}

// network is what clients are counted by: an IPv4 address, or the /64 of an IPv6 address, all of which
// one customer has.
func network(addr netip.Addr) string {
	const customer = 64
	addr = addr.Unmap().WithZone("")
	if addr.Is6() {
		if p, err := addr.Prefix(customer); err == nil {
			return p.String()
		}
	}
	return addr.String()
}
