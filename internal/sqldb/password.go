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

// withPassword connects with the password of the set that the server takes, see secret.Set.Login.
// Connections that are open stay.
func withPassword[T any](ctx context.Context, set *secret.Set, connect func(password string) (T, error)) (conn T, err error) {
	err = set.Login(ctx, func(v secret.Version) error {
		c, err := connect(string(v.Value.Reveal()))
		if err == nil {
			conn = c
			v.Used(time.Now())
		}
		return err
	}, isRefused)
	none, ok := errors.AsType[*secret.NotTakenError](err)
	switch {
	case !ok:
		return conn, err
	case none.Refusal == nil:
		return conn, errors.Join(fmt.Errorf("the secret %s holds no password that is active", set.Name), none.Reread)
	}
	return conn, errors.Join(fmt.Errorf("the database refuses every active version of the secret %s: %w", set.Name, none.Refusal), none.Reread)
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
