package identity

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/internal/sqldb"
)

const (
	// refreshPrefix begins each refresh token, so that it is known for one where it should not be.
	refreshPrefix = "rt_"
	// usedKept is how many used refresh tokens of a session are known; an older one is like an unknown one.
	usedKept = 1000
	// usedUp is a used_at that lies before any grace.
	usedUp = 1
	// maxSessions is how many sessions a user has at most. A login beyond them ends the one that was refreshed
	// longest ago.
	maxSessions = 100
	// endedAtOnce is how many a login ends at most: more than one only where they are of before the bound.
	endedAtOnce = 20
	// iatAhead is how far the iat of a token may lie ahead. It is ahead by a second after a revocation in
	// the same second.
	iatAhead = 5 * time.Second
)

var (
	// errChanged says that a user changed between the check of the password and the login.
	errChanged = errors.New("the user has just changed")
	errRefresh = unauthorized("The refresh token is not valid or has expired: log in again.")
	errReused  = unauthorized("The refresh token was used before, so its session has been ended: log in again.")
)

// grant is what a login or a refresh gives: what the tokens say.
type grant struct {
	user     User
	session  string
	authTime int64 // unix seconds
	issued   time.Time
	refresh  string
}

// lives is how long tokens live.
type lives struct{ access, refresh, grace time.Duration }

// newRefresh is a new refresh token, of 256 random bits, and how it is stored.
func newRefresh() (token, hash string) {
	b := make([]byte, 32)
	_, _ = rand.Read(b)
	token = refreshPrefix + base64.RawURLEncoding.EncodeToString(b)
	return token, refreshHash(token)
}

func refreshHash(token string) string {
	sum := sha256.Sum256([]byte(token))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// issue takes the iat of a new token for a user who is locked: one that no revocation reaches.
func issue(ctx context.Context, tx *sql.Tx, user User, now time.Time) (time.Time, error) {
	iat := now.Unix()
	if user.tokensFrom > 0 {
		iat = max(iat, user.tokensFrom/1000+1)
	}
	at := now
	if iat > now.Unix() {
		at = time.Unix(iat, 0)
		if ahead := at.Sub(now); ahead > iatAhead {
			return at, &problem.Error{Code: problem.Unavailable, RetryAfter: ahead - iatAhead, Detail: "The tokens of this user were revoked many times in a moment, try again later."}
		}
	}
	if iat > user.issuedAt {
		if _, err := tx.ExecContext(ctx, `UPDATE identity_users SET issued_at = $1 WHERE id = $2`, iat, user.ID); err != nil {
			return at, fmt.Errorf("issuing a token: %w", err)
		}
	}
	return at, nil
}

// start begins a session of a user whose password was right, and forgets the account's failed logins.
// Sessions that are too many then end, with what that revokes; room is asked before, and its error is
// the login's. errChanged if the user changed since the password was checked.
func (u *Users) start(ctx context.Context, c credentials, l lives, room func() error) (g grant, revoked []Revocation, err error) {
	now := u.now()
	err = u.db.InTx(ctx, func(tx *sql.Tx) error {
		user, err := lockUser(ctx, tx, byID(c.ID))
		switch {
		case errors.Is(err, ErrNoUser) || err == nil && (user.Disabled || user.tokensFrom != c.tokensFrom):
			return errChanged
		case err != nil:
			return err
		}
		at, err := issue(ctx, tx, user, now)
		if err != nil {
			return err
		}
		tooMany, err := oldSessions(ctx, tx, user.ID)
		if err == nil && len(tooMany) > 0 {
			err = room()
		}
		if err != nil {
			return err
		}
		token, hash := newRefresh()
		g = grant{user: user, session: newID("ses_"), authTime: now.Unix(), issued: at, refresh: token}
		expires := now.Add(l.refresh).UnixMilli()
		_, err = tx.ExecContext(ctx, `INSERT INTO identity_sessions (id, user_id, auth_time, created_at, refreshed_at, expires_at, access_exp, generation)
			VALUES ($1, $2, $3, $4, $4, $5, $6, 1)`, g.session, user.ID, g.authTime, now.UnixMilli(), expires, at.Add(l.access).Unix())
		if err != nil {
			return fmt.Errorf("storing the session: %w", err)
		}
		if err = insertRefresh(ctx, tx, hash, g.session, 1, expires); err != nil {
			return err
		}
		if err = forgetFailures(ctx, tx, user.Email); err != nil {
			return err
		}
		revoked, err = u.endSessions(ctx, tx, tooMany, now, true)
		return err
	})
	return g, revoked, err
}

// oldSessions are those of a user, who is locked, that must end so that there is room for one more.
func oldSessions(ctx context.Context, tx *sql.Tx, user string) (list []ending, err error) {
	rows, err := tx.QueryContext(ctx, `SELECT id, access_exp FROM identity_sessions WHERE user_id = $1
		ORDER BY refreshed_at DESC, id DESC LIMIT $2 OFFSET $3`, user, endedAtOnce, maxSessions-1)
	if err != nil {
		return nil, fmt.Errorf("counting the sessions: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var e ending
		if err = rows.Scan(&e.session, &e.accessExp); err != nil {
			return nil, fmt.Errorf("counting the sessions: %w", err)
		}
		list = append(list, e)
	}
	return list, rows.Err()
}

func insertRefresh(ctx context.Context, tx *sql.Tx, hash, session string, generation, expires int64) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO identity_refresh (hash, session_id, generation, expires_at, used_at) VALUES ($1, $2, $3, $4, 0)`,
		hash, session, generation, expires)
	if err != nil {
		return fmt.Errorf("storing the refresh token: %w", err)
	}
	return nil
}

// refreshRow is a refresh token with its session, whose user is locked.
type refreshRow struct {
	user                            User
	session                         string
	successor                       string
	usedAt, expires                 int64 // unix milliseconds
	authTime, accessExp, generation int64
}

// lockRefresh finds a refresh token, and locks its user first. errRefresh if there is none.
func lockRefresh(ctx context.Context, tx *sql.Tx, token string) (r refreshRow, err error) {
	hash := refreshHash(token)
	var userID string
	err = tx.QueryRowContext(ctx, `SELECT s.user_id FROM identity_refresh r JOIN identity_sessions s ON s.id = r.session_id WHERE r.hash = $1`, hash).Scan(&userID)
	if err == nil {
		r.user, err = lockUser(ctx, tx, byID(userID))
	}
	if err == nil {
		err = tx.QueryRowContext(ctx, `SELECT s.id, r.successor, r.used_at, r.expires_at, s.auth_time, s.access_exp, s.generation
			FROM identity_refresh r JOIN identity_sessions s ON s.id = r.session_id WHERE r.hash = $1`, hash).
			Scan(&r.session, &r.successor, &r.usedAt, &r.expires, &r.authTime, &r.accessExp, &r.generation)
	}
	switch {
	case sqldb.NoRow(err) || errors.Is(err, ErrNoUser):
		return r, errRefresh
	case err != nil:
		return r, fmt.Errorf("reading a refresh token: %w", err)
	}
	return r, nil
}

// rotate gives the next tokens for a refresh token. One that was used before ends its session, unless that was
// within the grace and nothing made from it has been used: errReused, with what that revoked. Within the grace
// it gives the same next refresh token again. Without room it revokes nothing.
func (u *Users) rotate(ctx context.Context, token string, l lives, room bool) (g grant, revoked []Revocation, err error) {
	reused := false
	err = u.db.InTx(ctx, func(tx *sql.Tx) error {
		r, err := lockRefresh(ctx, tx, token)
		if err != nil {
			return err
		}
		now := u.now()
		if r.usedAt != 0 && (l.grace == 0 || now.UnixMilli() > r.usedAt+l.grace.Milliseconds()) {
			reused = true
			revoked, err = u.endSessions(ctx, tx, []ending{{r.session, r.accessExp}}, now, room)
			return err
		}
		if r.user.Disabled || r.expires <= now.UnixMilli() {
			return errRefresh
		}
		if next, ok := unseal(token, r.successor); ok && r.usedAt != 0 {
			g, err = again(ctx, tx, r, next, l, now)
			return err
		}
		g, err = u.next(ctx, tx, r, token, l, now)
		return err
	})
	if err == nil && reused {
		err = errReused
	}
	return g, revoked, err
}

// again gives a new access token with the refresh token that was given before.
func again(ctx context.Context, tx *sql.Tx, r refreshRow, next string, l lives, now time.Time) (g grant, err error) {
	at, err := issue(ctx, tx, r.user, now)
	if err != nil {
		return g, err
	}
	_, err = tx.ExecContext(ctx, `UPDATE identity_sessions SET access_exp = $1 WHERE id = $2`, max(r.accessExp, at.Add(l.access).Unix()), r.session)
	if err != nil {
		return g, fmt.Errorf("renewing the session: %w", err)
	}
	return grant{user: r.user, session: r.session, authTime: r.authTime, issued: at, refresh: next}, nil
}

// next uses a refresh token up and makes the one that follows.
func (u *Users) next(ctx context.Context, tx *sql.Tx, r refreshRow, old string, l lives, now time.Time) (g grant, err error) {
	at, err := issue(ctx, tx, r.user, now)
	if err != nil {
		return g, err
	}
	token, hash := newRefresh()
	used, sealed := refreshHash(old), ""
	if l.grace > 0 {
		if sealed, err = seal(old, token); err != nil {
			return g, err
		}
	}
	g = grant{user: r.user, session: r.session, authTime: r.authTime, issued: at, refresh: token}
	if r.usedAt == 0 {
		if _, err = tx.ExecContext(ctx, `UPDATE identity_refresh SET used_at = $1, successor = $2 WHERE hash = $3`, now.UnixMilli(), sealed, used); err != nil {
			return g, fmt.Errorf("using a refresh token: %w", err)
		}
		// Its client has it for sure, and needs neither the one it was made from nor the others made from that.
		_, err = tx.ExecContext(ctx, `UPDATE identity_refresh SET used_at = $1, successor = '' WHERE session_id = $2 AND hash <> $3 AND (used_at = 0 OR used_at >= $4)`,
			usedUp, r.session, used, now.Add(-l.grace).UnixMilli())
		if err != nil {
			return g, fmt.Errorf("using up the refresh tokens beside it: %w", err)
		}
	}
	expires := now.Add(l.refresh).UnixMilli()
	_, err = tx.ExecContext(ctx, `UPDATE identity_sessions SET generation = $1, refreshed_at = $2, expires_at = $3, access_exp = $4 WHERE id = $5`,
		r.generation+1, now.UnixMilli(), expires, max(r.accessExp, at.Add(l.access).Unix()), r.session)
	if err != nil {
		return g, fmt.Errorf("renewing the session: %w", err)
	}
	if err = insertRefresh(ctx, tx, hash, r.session, r.generation+1, expires); err != nil {
		return g, err
	}
	_, err = tx.ExecContext(ctx, `DELETE FROM identity_refresh WHERE session_id = $1 AND generation <= $2 AND used_at > 0`, r.session, r.generation+1-usedKept)
	if err != nil {
		return g, fmt.Errorf("forgetting old refresh tokens: %w", err)
	}
	return g, nil
}

// ending is a session that is to end.
type ending struct {
	session   string
	accessExp int64 // the greatest exp of its access tokens, unix seconds
}

// endSessions deletes sessions of a user who is locked and, if there is room, revokes their access tokens. The
// transaction does nothing afterwards.
func (u *Users) endSessions(ctx context.Context, tx *sql.Tx, list []ending, now time.Time, room bool) (revoked []Revocation, err error) {
	for _, e := range list {
		for _, statement := range []string{`DELETE FROM identity_refresh WHERE session_id = $1`, `DELETE FROM identity_sessions WHERE id = $1`} {
			if _, err = tx.ExecContext(ctx, statement, e.session); err != nil {
				return nil, fmt.Errorf("ending a session: %w", err)
			}
		}
	}
	if !room {
		return nil, nil
	}
	for _, e := range list {
		r, err := writeRevocation(ctx, u.db, tx, newRevocation(KindSession, "", e.session, 0, time.Unix(e.accessExp, 0).Add(leeway).UnixMilli()), now)
		if err != nil {
			return nil, err
		}
		revoked = append(revoked, r)
	}
	return revoked, nil
}

// endByRefresh ends the session of a refresh token, used or not. Nothing happens for an unknown one. Without room
// the access tokens are not revoked. valid says that it could still have been used.
func (u *Users) endByRefresh(ctx context.Context, token string, all, room bool) (revoked []Revocation, valid bool, err error) {
	err = u.db.InTx(ctx, func(tx *sql.Tx) error {
		r, err := lockRefresh(ctx, tx, token)
		if err != nil {
			return err
		}
		now := u.now()
		valid = r.usedAt == 0 && r.expires > now.UnixMilli() && !r.user.Disabled
		if all && valid {
			revoked, err = u.endAll(ctx, tx, r.user, room)
		} else {
			revoked, err = u.endSessions(ctx, tx, []ending{{r.session, r.accessExp}}, now, room)
		}
		return err
	})
	if errors.Is(err, errRefresh) {
		err = nil
	}
	return revoked, valid, err
}

// endByID ends a session by its id; found is false if there is none. Without room its access tokens are not revoked.
func (u *Users) endByID(ctx context.Context, session string, room bool) (revoked []Revocation, found bool, err error) {
	err = u.db.InTx(ctx, func(tx *sql.Tx) error {
		var userID string
		var accessExp int64
		err := tx.QueryRowContext(ctx, `SELECT user_id FROM identity_sessions WHERE id = $1`, session).Scan(&userID)
		if err == nil {
			_, err = lockUser(ctx, tx, byID(userID))
		}
		if err == nil {
			err = tx.QueryRowContext(ctx, `SELECT access_exp FROM identity_sessions WHERE id = $1`, session).Scan(&accessExp)
		}
		switch {
		case sqldb.NoRow(err) || errors.Is(err, ErrNoUser):
			return nil
		case err != nil:
			return fmt.Errorf("reading a session: %w", err)
		}
		found = true
		revoked, err = u.endSessions(ctx, tx, []ending{{session, accessExp}}, u.now(), room)
		return err
	})
	return revoked, found, err
}

// Session is a login that goes on.
type Session struct {
	ID          string    `json:"id"`
	CreatedAt   time.Time `json:"created_at"`
	RefreshedAt time.Time `json:"refreshed_at"`
	ExpiresAt   time.Time `json:"expires_at"`
}

// sessions are those of a user after an id.
func (u *Users) sessions(ctx context.Context, user, after string, limit int) (list []Session, err error) {
	rows, err := u.db.Read.QueryContext(ctx, `SELECT id, created_at, refreshed_at, expires_at FROM identity_sessions
		WHERE user_id = $1 AND id > $2 AND expires_at > $3 ORDER BY id LIMIT $4`, user, after, u.now().UnixMilli(), limit)
	if err != nil {
		return nil, fmt.Errorf("reading the sessions: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	list = []Session{}
	for rows.Next() {
		var s Session
		var times [3]int64
		if err = rows.Scan(&s.ID, &times[0], &times[1], &times[2]); err != nil {
			return nil, fmt.Errorf("reading the sessions: %w", err)
		}
		s.CreatedAt, s.RefreshedAt, s.ExpiresAt = fromMilli(times[0]), fromMilli(times[1]), fromMilli(times[2])
		list = append(list, s)
	}
	return list, rows.Err()
}

func fromMilli(ms int64) time.Time { return time.UnixMilli(ms).UTC() }
