package identity

import (
	"context"
	"crypto/rand"
	"embed"
	"encoding/base32"
	"errors"
	"fmt"
	"io/fs"
	"net/mail"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/gatehouse-proxy/gatehouse/internal/sqldb"
)

//go:embed migrations
var migrations embed.FS

var (
	// ErrNoUser says that no user has that email address.
	ErrNoUser = errors.New("there is no user with this email address")
	// ErrUserExists says that a user with that email address is there already.
	ErrUserExists = errors.New("a user with this email address is there already")
)

// User is one user. The password's hash is not part of it.
type User struct {
	ID       string `json:"id"`
	Email    string `json:"email"`
	Role     string `json:"role,omitempty"`
	Scope    string `json:"scope,omitempty"`
	Disabled bool   `json:"disabled"`
	// CreatedAt is in UTC, to the millisecond.
	CreatedAt time.Time `json:"created_at"`

	issuedAt   int64 // the greatest iat of the user's tokens
	tokensFrom int64 // unix milliseconds: tokens issued at or before it are revoked
}

const userColumns = `id, email, role, scope, disabled, created_at, issued_at, tokens_from`

func scanUser(scan func(...any) error, more ...any) (u User, err error) {
	var created int64
	err = scan(append([]any{&u.ID, &u.Email, &u.Role, &u.Scope, &u.Disabled, &created, &u.issuedAt, &u.tokensFrom}, more...)...)
	switch {
	case sqldb.NoRow(err):
		return u, ErrNoUser
	case err != nil:
		return u, fmt.Errorf("reading a user: %w", err)
	}
	u.CreatedAt = time.UnixMilli(created).UTC()
	return u, nil
}

// invalid is an error in what was given, whose sentence is for who gave it.
type invalid string

func (e invalid) Error() string { return string(e) }

// Users are the users in the database. It is safe for concurrent use, also by several processes.
type Users struct {
	db  *sqldb.DB
	now func() time.Time
}

// OpenUsers brings the users' table to its newest version.
func OpenUsers(ctx context.Context, db *sqldb.DB) (*Users, error) {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	if err = db.Migrate(ctx, "identity", files); err != nil {
		return nil, err
	}
	return &Users{db, time.Now}, nil
}

// Add makes a user. Role and scope may be empty. ErrUserExists if the address is taken, whatever
// its case; other errors say which value is not valid.
func (u *Users) Add(ctx context.Context, email, password, role, scope string) (User, error) {
	if err := validateEmail(email); err != nil {
		return User{}, err
	}
	if err := validateGrants(role, scope); err != nil {
		return User{}, err
	}
	hash, err := newPassword(password)
	if err != nil {
		return User{}, err
	}
	return u.add(ctx, email, hash, role, scope)
}

// add is Add for what has been checked, with the password's hash.
func (u *Users) add(ctx context.Context, email, hash, role, scope string) (User, error) {
	user := User{ID: newID("usr_"), Email: email, Role: role, Scope: scope, CreatedAt: u.now().UTC().Truncate(time.Millisecond)}
	_, err := u.db.Write.ExecContext(ctx,
		`INSERT INTO identity_users (id, email, email_key, password_hash, role, scope, disabled, created_at) VALUES ($1, $2, $3, $4, $5, $6, 0, $7)`,
		user.ID, user.Email, emailKey(email), hash, role, scope, user.CreatedAt.UnixMilli())
	switch {
	case sqldb.IsUnique(err):
		return User{}, ErrUserExists
	case err != nil:
		return User{}, fmt.Errorf("storing the user: %w", err)
	}
	return user, nil
}

// List are all users by email address.
func (u *Users) List(ctx context.Context) ([]User, error) {
	return u.list(ctx, `SELECT `+userColumns+` FROM identity_users ORDER BY email_key`)
}

func (u *Users) list(ctx context.Context, query string, args ...any) (users []User, err error) {
	rows, err := u.db.Read.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("reading the users: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	users = []User{}
	for rows.Next() {
		user, err := scanUser(rows.Scan)
		if err != nil {
			return nil, err
		}
		users = append(users, user)
	}
	return users, rows.Err()
}

// get is the user with the id.
func (u *Users) get(ctx context.Context, id string) (User, error) {
	return scanUser(u.db.Read.QueryRowContext(ctx, `SELECT `+userColumns+` FROM identity_users WHERE id = $1`, id).Scan)
}

// credentials are a user with the hash of the password.
type credentials struct {
	User
	hash string
}

func (u *Users) find(ctx context.Context, email string) (c credentials, err error) {
	c.User, err = scanUser(u.db.Read.QueryRowContext(ctx,
		`SELECT `+userColumns+`, password_hash FROM identity_users WHERE email_key = $1`, emailKey(email)).Scan, &c.hash)
	return c, err
}

// rehash replaces a hash by another of the same password, unless the password was changed meanwhile.
func (u *Users) rehash(ctx context.Context, c credentials, hash string) error {
	_, err := u.db.Write.ExecContext(ctx,
		`UPDATE identity_users SET password_hash = $1 WHERE id = $2 AND password_hash = $3`, hash, c.ID, c.hash)
	if err != nil {
		return fmt.Errorf("storing the new hash: %w", err)
	}
	return nil
}

func emailKey(email string) string { return strings.ToLower(email) }

func newID(prefix string) string {
	b := make([]byte, 16)
	_, _ = rand.Read(b)
	return prefix + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b))
}

func newPassword(password string) (string, error) {
	if err := validatePassword(password); err != nil {
		return "", err
	}
	return HashPassword(password)
}

func validatePassword(password string) error {
	switch {
	case !utf8.ValidString(password):
		return invalid("the password must be valid UTF-8")
	case utf8.RuneCountInString(password) < MinPassword:
		return invalid(fmt.Sprintf("the password must have at least %d characters", MinPassword))
	case len(password) > MaxPassword:
		return invalid(fmt.Sprintf("the password must have at most %d bytes", MaxPassword))
	}
	return nil
}

func validateEmail(email string) error {
	addr, err := mail.ParseAddress(email)
	if err != nil || addr.Address != email || len(email) > 254 || !printable(email) {
		return invalid("the email address is not valid, write it as name@example.com")
	}
	return nil
}

// validateGrants checks a role and a list of scopes by the grammar of RFC 6749 section 3.3.
func validateGrants(role, scope string) error {
	if !scopeToken(role) || len(role) > 64 {
		return invalid("the role must have at most 64 printable ASCII characters without spaces, quotes and backslashes")
	}
	if scope == "" {
		return nil
	}
	if len(scope) > 1024 {
		return invalid("the scope must have at most 1024 characters")
	}
	for s := range strings.SplitSeq(scope, " ") {
		if s == "" || !scopeToken(s) {
			return invalid(`the scope must be words of printable ASCII without quotes and backslashes, with one space between them, such as "orders:read orders:write"`)
		}
	}
	return nil
}

func scopeToken(s string) bool {
	return !strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c > '~' || c == '"' || c == '\\' })
}

func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(c rune) bool { return !unicode.IsPrint(c) })
}
