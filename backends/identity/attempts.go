package identity

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/network"
	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/internal/sqldb"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

const (
	maxAttempts = 1_000_000
	// attemptsKept is how many accounts and addresses with failed logins the table has at most after a sweep;
	// beyond it those are forgotten whose windows end first.
	attemptsKept = 1_000_000
	// blockedFor is how long a process takes an account or address for blocked without looking again: so
	// long it may take to notice that another has let one in.
	blockedFor = time.Second
	// blockedKept is how many a process knows to be blocked without looking.
	blockedKept = 10_000
	// attemptTime is after how long a login under way has turned out, but for a database that is slow.
	attemptTime = hashWait + time.Second
	// recordTime bounds the storing of a failure, for which it does not matter whether the client is still there.
	recordTime = 5 * time.Second
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

// attempts limits the failed logins by account and by client address.
//
// A login counts as failed until it turns out otherwise: while it is under way in the memory of its process, then
// as a failure in the database. So one instance lets no more fail in a window than the limit, however many guesses
// come at once, and a restart forgets none. Of several instances on one database each sees the failures of all, but
// only its own logins under way: together they may let more fail than the limit, by at most what is under way on the
// others when one looks. That is never more than the limit again on each of them, and hardly more than the 34 that do
// or await a hash (password.go). The instances' clocks must agree, as they must for tokens.
//
// Only a login that cost a hash is written down, and a wrong admin secret, if there is one. Logins add what the
// hashing pool lets them: about 100 hashes a second on an instance, each of which adds two rows at most. That is
// 180 000 rows in windows of 15m, some 30 MB. Where longer windows, more instances or wrong admin secrets would make
// more of them, attemptsKept is the bound, exceeded by no more than what comes between two sweeps: 12 000 rows of
// logins for each instance.
type attempts struct {
	db     *sqldb.DB
	limits [2]Attempts
	mine   *underway
}

const byAccount, byAddress = 0, 1

// underway is what a process knows by itself. It survives changes of the configuration.
type underway struct {
	mu      sync.Mutex
	logins  map[string]int // that have begun and not ended, by key
	blocked map[string]block
}

// block is that an account or address was seen, at a time, to be refused until another.
type block struct{ seen, until time.Time }

func newUnderway() *underway {
	return &underway{logins: map[string]int{}, blocked: map[string]block{}}
}

// attemptKeys are what stands for an account and a client address. They are hashes, so that the table shows neither
// whom others tried to be, nor a password that was typed in the wrong place. They hide nothing from one who has the
// table and tries names against it: against that only a key would help that all instances have and the database has
// not, and there need be none.
func attemptKeys(email string, addr netip.Addr) [2]string {
	return [2]string{byAccount: accountKey(email), byAddress: attemptKey("address", network.Of(addr))}
}

func accountKey(email string) string { return attemptKey("account", emailKey(email)) }

func attemptKey(kind, value string) string {
	sum := sha256.Sum256([]byte(kind + "\x00" + value))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// attempt is a login that counts as failed until it has ended. Its caller ends it.
type attempt struct {
	of   *attempts
	keys [2]string
}

// begin counts a login, or refuses it with the time that is left until one is let through again. An account or
// address that is known to be blocked costs no look into the database.
func (a *attempts) begin(ctx context.Context, email string, addr netip.Addr, now time.Time) (attempt, error) {
	t := attempt{a, attemptKeys(email, addr)}
	// It is counted before the look: a login that is under way is seen here, or has stored its failure by then.
	place, err := a.mine.enter(t.keys, a.limits, now)
	if err != nil {
		return t, err
	}
	failed, err := a.failed(ctx, t.keys, now)
	if err == nil {
		err = a.judge(t.keys, failed, place, now)
	}
	if err != nil {
		t.end()
	}
	return t, err
}

// judge refuses a login if as many as the limit began before it that have failed, or may yet. place is its place,
// from 1, among those under way.
func (a *attempts) judge(keys [2]string, failed [2]failures, place [2]int, now time.Time) error {
	var wait time.Duration
	full := false
	for i, limit := range a.limits {
		switch f := failed[i]; {
		case f.n >= limit.N:
			wait = max(wait, f.until.Sub(now))
			a.mine.block(keys[i], block{now, f.until})
		case f.n+place[i] > limit.N:
			full = true
		}
	}
	switch {
	case wait > 0:
		return tooManyFailed(wait)
	case full:
		return tooManyUnderWay()
	}
	return nil
}

func tooManyFailed(wait time.Duration) error {
	return &problem.Error{Code: problem.QuotaExceeded, RetryAfter: wait, Detail: "Too many logins have failed, try again later."}
}

func tooManyUnderWay() error {
	return &problem.Error{Code: problem.QuotaExceeded, RetryAfter: attemptTime, Detail: "Too many logins to this account or from this address are under way, try again when they have ended."}
}

// enter counts a login as under way and says its place among them, from 1, or refuses it by what is known here.
func (u *underway) enter(keys [2]string, limits [2]Attempts, now time.Time) (place [2]int, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	var wait time.Duration
	for i, key := range keys {
		if b, ok := u.blocked[key]; ok && now.Sub(b.seen) < blockedFor {
			wait = max(wait, b.until.Sub(now))
		}
		if u.logins[key] >= limits[i].N {
			err = tooManyUnderWay()
		}
	}
	if wait > 0 {
		err = tooManyFailed(wait)
	}
	if err != nil {
		return place, err
	}
	for i, key := range keys {
		u.logins[key]++
		place[i] = u.logins[key]
	}
	return place, nil
}

func (u *underway) block(key string, b block) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.blocked) >= blockedKept {
		clear(u.blocked) // the next look finds them again
	}
	u.blocked[key] = b
}

// end takes the login from those under way.
func (t attempt) end() {
	u := t.of.mine
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, key := range t.keys {
		if u.logins[key]--; u.logins[key] <= 0 {
			delete(u.logins, key)
		}
	}
}

// failures are those of an account or address in its window.
type failures struct {
	n     int
	until time.Time
}

// failed reads the failures of all instances.
func (a *attempts) failed(ctx context.Context, keys [2]string, now time.Time) (list [2]failures, err error) {
	rows, err := a.db.Read.QueryContext(ctx, `SELECT hash, failed, expires_at FROM identity_attempts WHERE hash IN ($1, $2) AND expires_at > $3`,
		keys[byAccount], keys[byAddress], now.UnixMilli())
	if err != nil {
		return list, fmt.Errorf("reading the failed logins: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var key string
		var f failures
		var until int64
		if err = rows.Scan(&key, &f.n, &until); err != nil {
			return list, fmt.Errorf("reading the failed logins: %w", err)
		}
		f.until = time.UnixMilli(until)
		for i := range keys {
			if key == keys[i] {
				list[i] = f
			}
		}
	}
	return list, rows.Err()
}

// fail stores that the login failed, also when the client has gone: it had its guess.
func (t attempt) fail(ctx context.Context, now time.Time) error {
	return t.of.record(ctx, now, failure{t.keys[byAccount], t.of.limits[byAccount].Per}, failure{t.keys[byAddress], t.of.limits[byAddress].Per})
}

// failure is one to be stored, with the window that it begins if there is none.
type failure struct {
	key    string
	window time.Duration
}

// record stores failures of different keys, also when the client has gone.
func (a *attempts) record(ctx context.Context, now time.Time, list ...failure) (err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTime)
	defer cancel()
	rows, args := make([]string, 0, len(list)), []any{now.UnixMilli()}
	for _, f := range list {
		rows = append(rows, fmt.Sprintf("($%d, 1, $%d)", len(args)+1, len(args)+2))
		args = append(args, f.key, now.Add(f.window).UnixMilli())
	}
	const tries = 3 // PostgreSQL may give one up for the sweep, which locks rows in another order
	for range tries {
		_, err = a.db.Write.ExecContext(ctx, `INSERT INTO identity_attempts (hash, failed, expires_at) VALUES `+strings.Join(rows, ", ")+`
			ON CONFLICT (hash) DO UPDATE SET
				failed = CASE WHEN identity_attempts.expires_at > $1 THEN identity_attempts.failed + 1 ELSE 1 END,
				expires_at = CASE WHEN identity_attempts.expires_at > $1 THEN identity_attempts.expires_at ELSE excluded.expires_at END`, args...)
		if !sqldb.IsAborted(err) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("storing a failed login: %w", err)
	}
	return nil
}

// forgetFailures forgets the failed logins to an account, in the transaction that shows its owner to be there.
func forgetFailures(ctx context.Context, tx *sql.Tx, email string) error {
	if _, err := tx.ExecContext(ctx, `DELETE FROM identity_attempts WHERE hash = $1`, accountKey(email)); err != nil {
		return fmt.Errorf("forgetting the failed logins: %w", err)
	}
	return nil
}

// sweep deletes what has expired, and of the rest what is beyond keep rows: those that expire first.
func (a *attempts) sweep(ctx context.Context, now time.Time, keep int) error {
	var until int64
	err := a.db.Read.QueryRowContext(ctx, `SELECT expires_at FROM identity_attempts ORDER BY expires_at DESC LIMIT 1 OFFSET $1`, keep).Scan(&until)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("counting the failed logins: %w", err)
	}
	return a.db.DeleteExpired(ctx, "identity_attempts", "hash", time.UnixMilli(max(until, now.UnixMilli())))
}
