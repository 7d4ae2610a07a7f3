package sqldb

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/gatehouse-proxy/gatehouse/internal/secret"
)

// withPassword connects with a password of the set, the newest first: the one that is in force when
// the connection is made. If the server refuses it, the source is read again, and then the other
// active versions are tried: a password may change in the database before or after it does in the
// source. Connections that are open stay.
func withPassword[T any](ctx context.Context, set *secret.Set, connect func(password string) (T, error)) (T, error) {
	var none T
	tried := map[string]bool{}
	var refused error
	try := func() (conn T, done bool, err error) {
		for _, v := range set.Versions() {
			password := string(v.Value.Reveal())
			if tried[password] {
				continue
			}
			tried[password] = true
			if conn, err = connect(password); err == nil {
				v.Used(time.Now())
				return conn, true, nil
			}
			if !isRefused(err) {
				return none, true, err
			}
			refused = err
			if len(tried) == 1 { // the newest; before the others it may be asked what is newest now
				return none, false, nil
			}
		}
		return none, false, nil
	}
	conn, done, err := try()
	if done {
		return conn, err
	}
	refresh := set.Refresh(ctx)
	if conn, done, err = try(); done {
		return conn, err
	}
	if refused == nil {
		return none, errors.Join(fmt.Errorf("the secret %s holds no password that is active", set.Name), refresh)
	}
	return none, errors.Join(fmt.Errorf("the database refuses every active version of the secret %s: %w", set.Name, refused), refresh)
}

// isRefused says that the server takes the user or the password for wrong.
func isRefused(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (e.Code == "28P01" || e.Code == "28000")
}

// connector opens the connections of a pool whose password may change.
type connector struct {
	config   *pgx.ConnConfig
	password *secret.Set
}

// Connect opens a connection.
func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	return withPassword(ctx, c.password, func(password string) (driver.Conn, error) {
		config := c.config.Copy()
		config.Password = password
		return stdlib.GetConnector(*config).Connect(ctx)
	})
}

// Driver is the driver.
func (c connector) Driver() driver.Driver { return stdlib.GetDefaultDriver() }

// choosePassword finds the password that the server takes, for a pool that cannot try several: it
// connects once to see. Such a pool has few connections, and keeps them.
func choosePassword(password *secret.Set) func(context.Context, *pgx.ConnConfig) error {
	return func(ctx context.Context, config *pgx.ConnConfig) error {
		taken, err := withPassword(ctx, password, func(password string) (string, error) {
			probe := config.Copy()
			probe.Password = password
			conn, err := pgx.ConnectConfig(ctx, probe)
			if err != nil {
				return "", err
			}
			return password, conn.Close(ctx)
		})
		config.Password = taken
		return err
	}
}
