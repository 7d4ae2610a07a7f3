package sqldb

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/gatehouse-proxy/gatehouse/internal/secret"
)

const (
	// connectTimeout bounds the opening of a connection, where the URL has no connect_timeout.
	connectTimeout = 5 * time.Second
	// poolSize is the number of connections of each of the two pools, where the URL has no pool_max_conns.
	poolSize = 16
	// listenerSize is the number of connections of a Listener.
	listenerSize = 2
	// idleTime is after how long an unused connection is closed.
	idleTime = 5 * time.Minute
)

const postgresForm = "write postgres://user@host[:port]/database[?sslmode=verify-full…]"

// OpenPostgres opens the PostgreSQL database that dsn names, a URL with the scheme postgres or
// postgresql. It dials, so a server that cannot be reached is an error; later the pools connect anew
// by themselves. No error shows the password. The caller closes it.
func OpenPostgres(ctx context.Context, dsn string) (*DB, error) {
	return OpenPostgresAs(ctx, dsn, nil)
}

// OpenPostgresAs is OpenPostgres with the password in a secret set, unless that is nil. Every new
// connection is made with the newest version, or with another one that is active if the server does
// not take that. The set must be kept up to date as long as the database is open.
func OpenPostgresAs(ctx context.Context, dsn string, password *secret.Set) (*DB, error) {
	pool, err := parsePostgres(dsn)
	if err != nil {
		return nil, err
	}
	if password != nil {
		pool.BeforeConnect = choosePassword(password)
	}
	db, config := &DB{Write: newPool(pool, password), Read: newPool(pool, password), postgres: pool}, pool.ConnConfig
	dial, cancel := context.WithTimeout(ctx, patience(config))
	defer cancel()
	if err = db.Write.PingContext(dial); err == nil {
		db.pooled, err = behindPooler(dial, db.Write)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the PostgreSQL database %s on %s cannot be reached, start it or correct database: %w", config.Database, config.Host, err), db.Close())
	}
	if !db.pooled || strings.Contains(dsn, execModeParam) {
		return db, nil
	}
	// Named statements belong to one connection; what is kept of these is their types alone.
	if err = db.Close(); err != nil {
		return nil, err
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	db.Write, db.Read = newPool(pool, password), newPool(pool, password)
	return db, nil
}

// execModeParam in the URL overrides how statements are sent.
const execModeParam = "default_query_exec_mode"

// behindPooler says whether who answers is not PostgreSQL itself: a pooler names another process than the one
// that runs a statement.
func behindPooler(ctx context.Context, db *sql.DB) (pooled bool, err error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return false, err
	}
	defer func() { _ = conn.Close() }()
	err = conn.Raw(func(raw any) error {
		c := raw.(*stdlib.Conn).Conn()
		var pid uint32
		if err := c.QueryRow(ctx, "SELECT pg_backend_pid()", pgx.QueryExecModeExec).Scan(&pid); err != nil {
			return err
		}
		pooled = pid != c.PgConn().PID()
		return nil
	})
	return pooled, err
}

// Listener is a pool of the driver's own kind, for LISTEN on PostgreSQL. It dials nothing before its
// first use. The caller closes it.
func (db *DB) Listener(ctx context.Context) (*pgxpool.Pool, error) {
	if !db.Postgres() || db.pooled {
		return nil, errors.New("there is no LISTEN on SQLite, or behind a pooler")
	}
	config := db.postgres.Copy()
	config.MaxConns = listenerSize
	return pgxpool.NewWithConfig(ctx, config)
}

// patience is how long the first connection may take: a server is tried with and without TLS, and
// several servers one after the other.
func patience(config *pgx.ConnConfig) time.Duration {
	for _, f := range config.Fallbacks {
		if f.Host != config.Host || f.Port != config.Port {
			return config.ConnectTimeout * time.Duration(1+len(config.Fallbacks))
		}
	}
	return config.ConnectTimeout
}

// CheckPostgres says what is wrong with dsn, without dialling.
func CheckPostgres(dsn string) error {
	_, err := parsePostgres(dsn)
	return err
}

func parsePostgres(dsn string) (*pgxpool.Config, error) {
	bad := func(why string) error { return fmt.Errorf("database: %.200q %s: %s", Redact(dsn), why, postgresForm) }
	u, err := url.Parse(dsn)
	if err != nil {
		return nil, bad("is not a URL")
	}
	switch {
	case u.Scheme != "postgres" && u.Scheme != "postgresql":
		return nil, bad("does not begin with postgres://")
	case u.Opaque != "":
		return nil, bad("has no // after the scheme")
	case u.Fragment != "":
		return nil, bad("has a # part, which means nothing here")
	case u.Host == "" && u.Query().Get("host") == "":
		return nil, bad("has no host")
	case strings.Trim(u.Path, "/") == "":
		return nil, bad("names no database")
	}
	pool, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		// The parser's own sentence may quote the URL.
		cause := errors.Unwrap(err)
		if cause == nil || u.User != nil && strings.Contains(cause.Error(), u.User.String()) {
			return nil, bad("cannot be understood")
		}
		return nil, bad("cannot be understood (" + cause.Error() + ")")
	}
	if !u.Query().Has("pool_max_conns") {
		pool.MaxConns = poolSize
	}
	config := pool.ConnConfig
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = connectTimeout
	}
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "gatehouse"
	}
	dial := config.DialFunc
	config.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return wire{c}, nil
	}
	return pool, nil
}

func newPool(config *pgxpool.Config, password *secret.Set) *sql.DB {
	db := sql.OpenDB(stdlib.GetConnector(*config.ConnConfig))
	if password != nil {
		db = sql.OpenDB(connector{config.ConnConfig, password})
	}
	db.SetMaxOpenConns(int(config.MaxConns))
	db.SetMaxIdleConns(int(config.MaxConns))
	db.SetConnMaxIdleTime(idleTime)
	return db
}

// Redact is dsn without what may be a password, also if it is no URL.
func Redact(dsn string) string {
	scheme, rest, ok := strings.Cut(dsn, "://")
	if !ok {
		return "REDACTED"
	}
	rest, query, _ := strings.Cut(rest, "?")
	if at := strings.LastIndexByte(rest, '@'); at >= 0 {
		user, _, secret := strings.Cut(rest[:at], ":")
		if secret {
			user += ":REDACTED"
		}
		rest = user + rest[at:]
	}
	if query != "" {
		rest += "?REDACTED"
	}
	return scheme + "://" + rest
}

// HasPassword says whether a password stands in dsn.
func HasPassword(dsn string) bool {
	u, err := url.Parse(dsn)
	if err != nil {
		return false
	}
	_, set := u.User.Password()
	return set || u.Query().Has("password") || u.Query().Has("sslpassword")
}

// wire tells a lost connection to the database from other network errors.
type wire struct{ net.Conn }

type lostError struct{ cause error }

func (e lostError) Error() string {
	return "the connection to the database was lost: " + e.cause.Error()
}
func (e lostError) Unwrap() error { return e.cause }

func lost(err error) error {
	if t, ok := errors.AsType[net.Error](err); err == nil || ok && t.Timeout() { // of a context
		return err
	}
	return lostError{err}
}

func (w wire) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	return n, lost(err)
}

func (w wire) Write(b []byte) (int, error) {
	n, err := w.Conn.Write(b)
	return n, lost(err)
}

// isBusyPostgres knows the classes of https://www.postgresql.org/docs/current/errcodes-appendix.html.
func isBusyPostgres(err error) bool {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch e.Code {
		case "40001", "40P01", // given up for another transaction
			"25006",          // a server that only reads, in the middle of a failover
			"55P03", "57014", // a lock or a statement took too long
			"28P01", "28000": // a password that is being rotated, or one to be corrected
			return true
		}
		switch e.Code[:min(2, len(e.Code))] {
		case "08", "53", "58": // connection, resources, input and output
			return true
		}
		return strings.HasPrefix(e.Code, "57P0") // stopping, starting, crashed
	}
	if _, ok := errors.AsType[lostError](err); ok {
		return true
	}
	_, dial := errors.AsType[*pgconn.ConnectError](err)
	return dial || errors.Is(err, driver.ErrBadConn) || pgconn.SafeToRetry(err)
}

func isFullPostgres(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && e.Code == "53100"
}

func isUniquePostgres(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && e.Code == "23505"
}

// NoRow says whether err means that there is no row with the value asked for.
func NoRow(err error) bool { return errors.Is(err, sql.ErrNoRows) || IsNotText(err) }

// IsNotText says whether err means that a value which PostgreSQL was to store or to compare is no
// text to it: it has a NUL or is not UTF-8. No row has such a value. SQLite takes it.
func IsNotText(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && e.Code == "22021"
}
