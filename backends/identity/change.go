package identity

import (
	"context"
	"database/sql"
	"fmt"
	"math"
)

// Change is what is to become of a user; what is nil stays.
type Change struct {
	Role, Scope *string
	Disabled    *bool
	// Password ends the user's sessions, as does Disabled, and forgets the failed logins to the account.
	Password *string
}

func (c Change) validate() error {
	var role, scope string
	if c.Role != nil {
		role = *c.Role
	}
	if c.Scope != nil {
		scope = *c.Scope
	}
	if err := validateGrants(role, scope); err != nil {
		return err
	}
	if c.Password != nil {
		return validatePassword(*c.Password)
	}
	return nil
}

// which says by what column a user is found.
type which struct{ column, value string }

func byID(id string) which       { return which{"id", id} }
func byEmail(email string) which { return which{"email_key", emailKey(email)} }

// SetPassword gives the user another password. It ends the user's sessions and revokes the tokens.
func (u *Users) SetPassword(ctx context.Context, email, password string) error {
	return u.Change(ctx, email, Change{Password: &password})
}

// Disable lets the user log in no more. It ends the user's sessions and revokes the tokens.
func (u *Users) Disable(ctx context.Context, email string) error {
	return u.Change(ctx, email, Change{Disabled: new(true)})
}

// Change changes a user. A new password and disabling end the sessions and revoke the tokens; another role
// or scope revokes the access tokens, so that clients refresh them and get what now holds.
func (u *Users) Change(ctx context.Context, email string, c Change) error {
	if err := c.validate(); err != nil {
		return err
	}
	hash := ""
	if c.Password != nil {
		var err error
		if hash, err = HashPassword(*c.Password); err != nil {
			return err
		}
	}
	_, _, err := u.change(ctx, byEmail(email), c, hash)
	return err
}

// Delete removes a user with the sessions, and revokes the tokens.
func (u *Users) Delete(ctx context.Context, email string) error {
	_, err := u.delete(ctx, byEmail(email))
	return err
}

// Logout ends the user's sessions and revokes the tokens.
func (u *Users) Logout(ctx context.Context, email string) error {
	_, err := u.logout(ctx, byEmail(email), true)
	return err
}

// change is Change for what has been checked, with the new password's hash.
func (u *Users) change(ctx context.Context, w which, c Change, hash string) (user User, revoked []Revocation, err error) {
	err = u.db.InTx(ctx, func(tx *sql.Tx) error {
		if user, err = lockUser(ctx, tx, w); err != nil {
			return err
		}
		before := user
		if c.Role != nil {
			user.Role = *c.Role
		}
		if c.Scope != nil {
			user.Scope = *c.Scope
		}
		if c.Disabled != nil {
			user.Disabled = *c.Disabled
		}
		if err := validateGrants(user.Role, user.Scope); err != nil {
			return err
		}
		disabled := 0
		if user.Disabled {
			disabled = 1
		}
		if _, err := tx.ExecContext(ctx, `UPDATE identity_users SET role = $1, scope = $2, disabled = $3 WHERE id = $4`, user.Role, user.Scope, disabled, user.ID); err != nil {
			return fmt.Errorf("changing the user: %w", err)
		}
		if hash != "" {
			if _, err := tx.ExecContext(ctx, `UPDATE identity_users SET password_hash = $1 WHERE id = $2`, hash, user.ID); err != nil {
				return fmt.Errorf("changing the password: %w", err)
			}
			if err := forgetFailures(ctx, tx, user.Email); err != nil {
				return err
			}
		}
		end := hash != "" || user.Disabled && !before.Disabled
		if !end && user.Role == before.Role && user.Scope == before.Scope {
			return nil
		}
		revoked, err = u.revokeAll(ctx, tx, user, end)
		return err
	})
	return user, revoked, err
}

func (u *Users) delete(ctx context.Context, w which) (revoked []Revocation, err error) {
	err = u.db.InTx(ctx, func(tx *sql.Tx) error {
		user, err := lockUser(ctx, tx, w)
		if err != nil {
			return err
		}
		if _, err = tx.ExecContext(ctx, `DELETE FROM identity_users WHERE id = $1`, user.ID); err != nil {
			return fmt.Errorf("deleting the user: %w", err)
		}
		revoked, err = u.revokeAll(ctx, tx, user, true)
		return err
	})
	return revoked, err
}

// logout is Logout. Without room it ends the sessions alone.
func (u *Users) logout(ctx context.Context, w which, room bool) (revoked []Revocation, err error) {
	err = u.db.InTx(ctx, func(tx *sql.Tx) error {
		user, err := lockUser(ctx, tx, w)
		if err != nil {
			return err
		}
		revoked, err = u.endAll(ctx, tx, user, room)
		return err
	})
	return revoked, err
}

// lockUser reads a user, whom nobody else changes or issues tokens for until the transaction ends.
func lockUser(ctx context.Context, tx *sql.Tx, w which) (User, error) {
	return scanUser(tx.QueryRowContext(ctx, `UPDATE identity_users SET tokens_from = tokens_from WHERE `+w.column+` = $1 RETURNING `+userColumns, w.value).Scan)
}

// endAll ends all sessions of a user who is locked and, if there is room, revokes all access tokens. The
// transaction does nothing afterwards.
func (u *Users) endAll(ctx context.Context, tx *sql.Tx, user User, room bool) ([]Revocation, error) {
	if !room {
		return nil, deleteSessions(ctx, tx, user.ID, math.MaxInt64)
	}
	return u.revokeAll(ctx, tx, user, true)
}

// deleteSessions deletes the sessions of a user who is locked that began at or before a time, in unix milliseconds.
func deleteSessions(ctx context.Context, tx *sql.Tx, user string, until int64) error {
	for _, statement := range []string{
		`DELETE FROM identity_refresh WHERE session_id IN (SELECT id FROM identity_sessions WHERE user_id = $1 AND created_at <= $2)`,
		`DELETE FROM identity_sessions WHERE user_id = $1 AND created_at <= $2`,
	} {
		if _, err := tx.ExecContext(ctx, statement, user, until); err != nil {
			return fmt.Errorf("ending the sessions: %w", err)
		}
	}
	return nil
}

// revokeAll revokes all access tokens of a user who is locked, and ends the sessions if it is told to.
// The transaction does nothing afterwards.
func (u *Users) revokeAll(ctx context.Context, tx *sql.Tx, user User, sessions bool) ([]Revocation, error) {
	if sessions {
		if err := deleteSessions(ctx, tx, user.ID, math.MaxInt64); err != nil {
			return nil, err
		}
	}
	now := u.now()
	before := max(now.UnixMilli(), user.issuedAt*1000)
	if _, err := tx.ExecContext(ctx, `UPDATE identity_users SET tokens_from = $1 WHERE id = $2 AND tokens_from < $1`, before, user.ID); err != nil {
		return nil, fmt.Errorf("revoking the user's tokens: %w", err)
	}
	r, err := writeRevocation(ctx, u.db, tx, newRevocation(KindSubject, "", user.ID, before, now.Add(MaxTTL).UnixMilli()), now)
	return []Revocation{r}, err
}
