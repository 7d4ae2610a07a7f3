package identity

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/base32"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/internal/sqldb"
)

const (
	// MaxRevocations is how many revocations an instance keeps in memory; then no more are taken.
	MaxRevocations = 1_000_000
	// clientRevocations is how many of them clients may bring about, by logging out and the like; the rest are
	// for administrators.
	clientRevocations = MaxRevocations / 10 * 9
	// revocationPoll is how often an instance looks for revocations of others. With the time of the
	// look itself it must stay well below a second.
	revocationPoll = 300 * time.Millisecond
	// revocationPage is how many rows are read at once.
	revocationPage = 1000
)

// Kind is what a revocation goes by: a claim of the tokens that it revokes.
type Kind string

// The kinds.
const (
	KindToken   Kind = "jti"
	KindSession Kind = "sid"
	KindSubject Kind = "sub"
)

// Revocation takes tokens back before they expire: one, those of a session, or those of a subject that
// were issued at or before a time.
type Revocation struct {
	ID string
	// Issuer is whose tokens are meant, "" for those of any issuer.
	Issuer string

	kind   Kind
	value  string
	before int64 // of KindSubject: unix milliseconds of the last iat that is revoked
	// at orders the changes of one revocation, in unix milliseconds.
	at      int64
	undone  bool
	expires int64 // unix milliseconds: no token that it revokes is valid then
	seq     int64
}

func newRevocation(kind Kind, issuer, value string, before, expires int64) Revocation {
	sum := sha256.Sum256([]byte(string(kind) + "\x00" + issuer + "\x00" + value))
	id := "rev_" + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:16]))
	return Revocation{ID: id, Issuer: issuer, kind: kind, value: value, before: before, expires: expires}
}

// revocations are those of the database, in memory, and passed on by Redis where there is one.
type revocations struct {
	db    *sqldb.DB
	index *index
	redis *redisList // nil without Redis
	log   *slog.Logger
	now   func() time.Time

	mu     sync.Mutex // one reads the database
	last   int64      // the seq read last
	failed atomic.Bool
}

// Revoked says whether a token was taken back: by its jti, by its session, or by its subject if it was
// issued, in unix milliseconds, at or before a time. What a token does not say is "". It does no I/O and
// allocates nothing; it is a single atomic load while nothing is revoked.
func (s *Service) Revoked(issuer, jti, sid, sub string, issuedMS int64) bool {
	x := s.revoked.index
	if x.live.Load() == 0 {
		return false
	}
	return x.has(KindToken, issuer, jti, 0) || x.has(KindSession, issuer, sid, 0) || x.has(KindSubject, issuer, sub, issuedMS)
}

const revocationColumns = `seq, id, kind, issuer, value, issued_before, at, undone, expires_at`

func scanRevocation(scan func(...any) error) (r Revocation, err error) {
	err = scan(&r.seq, &r.ID, &r.kind, &r.Issuer, &r.value, &r.before, &r.at, &r.undone, &r.expires)
	return r, err
}

// writeRevocation stores r in a transaction, which does nothing afterwards. Revocations of the same
// become one. Transactions commit in the order of seq, so who has seen one has seen those before it.
func writeRevocation(ctx context.Context, db *sqldb.DB, tx *sql.Tx, r Revocation, now time.Time) (Revocation, error) {
	if err := db.LockInTx(ctx, tx, "identity revocations"); err != nil {
		return r, err
	}
	r.at = now.UnixMilli()
	old, err := scanRevocation(tx.QueryRowContext(ctx, `SELECT `+revocationColumns+` FROM identity_revocations WHERE id = $1`, r.ID).Scan)
	switch {
	case errors.Is(err, sql.ErrNoRows):
	case err != nil:
		return r, fmt.Errorf("reading a revocation: %w", err)
	default:
		r.at = max(r.at, old.at+1)
		if old.undone == r.undone {
			r.before, r.expires = max(r.before, old.before), max(r.expires, old.expires)
		}
		if _, err = tx.ExecContext(ctx, `DELETE FROM identity_revocations WHERE id = $1`, r.ID); err != nil {
			return r, fmt.Errorf("replacing a revocation: %w", err)
		}
	}
	undone := 0
	if r.undone {
		undone = 1
	}
	err = tx.QueryRowContext(ctx, `INSERT INTO identity_revocations (id, kind, issuer, value, issued_before, at, undone, expires_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING seq`, r.ID, r.kind, r.Issuer, r.value, r.before, r.at, undone, r.expires).Scan(&r.seq)
	if err != nil {
		return r, fmt.Errorf("storing a revocation: %w", err)
	}
	return r, nil
}

// read reads the revocations after a seq, in order.
func (v *revocations) read(ctx context.Context, after int64, limit int, where string, args ...any) (list []Revocation, err error) {
	rows, err := v.db.Read.QueryContext(ctx, `SELECT `+revocationColumns+` FROM identity_revocations WHERE seq > $1 `+where+` ORDER BY seq LIMIT $2`,
		append([]any{after, limit}, args...)...)
	if err != nil {
		return nil, fmt.Errorf("reading the revocations: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		r, err := scanRevocation(rows.Scan)
		if err != nil {
			return nil, fmt.Errorf("reading the revocations: %w", err)
		}
		list = append(list, r)
	}
	return list, rows.Err()
}

// poll takes in what was revoked since the last time, by whatever process, and passes it on.
func (v *revocations) poll(ctx context.Context) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	for {
		list, err := v.read(ctx, v.last, revocationPage, "")
		if err != nil {
			return err
		}
		for _, r := range list {
			v.index.put(r)
			v.last = r.seq
		}
		if v.redis != nil && len(list) > 0 {
			v.redis.push(ctx, list)
		}
		if len(list) < revocationPage {
			return nil
		}
	}
}

// run polls until ctx ends.
func (v *revocations) run(ctx context.Context) {
	tick := time.NewTicker(revocationPoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := v.poll(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !v.failed.Swap(true):
			v.log.Warn("the revocations of others cannot be read, those known stay in force", "error", err)
		case err == nil && v.failed.Swap(false):
			v.log.Info("the revocations of others are read again")
		}
	}
}

// room is an error if an administrator can revoke no more.
func (v *revocations) room() error {
	if v.index.live.Load() >= MaxRevocations {
		return noRoom(MaxRevocations, "no more are taken")
	}
	return nil
}

// clientRoom is an error if clients can revoke no more.
func (v *revocations) clientRoom() error {
	if v.index.live.Load() >= clientRevocations {
		return noRoom(clientRevocations, "clients can revoke no more: a session that has ended gives out no new tokens, but an access token holds until it expires")
	}
	return nil
}

func noRoom(n int, so string) error {
	return problem.New(problem.InsufficientStorage, "There are %d revocations, and %s. They end when the tokens expire, and sooner with a shorter ttl.", n, so)
}

// committed puts revocations in force here, and hands them to the instances that share no database. If
// those cannot be reached it is an error for the client, with all done that can be.
func (v *revocations) committed(ctx context.Context, list ...Revocation) error {
	for _, r := range list {
		v.index.put(r)
	}
	if v.redis == nil || v.redis.pass(ctx, list) || v.db.Postgres() {
		return nil
	}
	return &problem.Error{
		Code: problem.Unavailable, RetryAfter: time.Second,
		Detail: "This is done and holds on this instance. Redis does not answer right now; the other instances learn of it when it does.",
	}
}

// sweep deletes what has expired.
func (v *revocations) sweep(ctx context.Context, now time.Time) error {
	v.index.expire(now.UnixMilli())
	return v.db.DeleteExpired(ctx, "identity_revocations", "seq", now)
}
