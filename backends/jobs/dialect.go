package jobs

import (
	"strings"

	"github.com/gatehouse-proxy/gatehouse/internal/sqldb"
)

// dialect is what the two databases call by different names in statements on the engine's tables. The
// rest of a statement is the same on both: parameters are $1, $2, and ->> 'name' reads a member.
type dialect struct {
	pg bool
	// now is the time of the database, as the engine stores times.
	now string
	// key is the tenant of the row j, '' for none.
	key string
	// owner is who runs the row j, or ran it last.
	owner string
	// args and errors are the columns of the row j as JSON text.
	args, errors string
}

var (
	sqliteDialect = dialect{
		now: "datetime('now', 'subsec')", key: "coalesce(j.metadata ->> 'key', '')", owner: "(j.attempted_by ->> '$[#-1]')",
		args: "json(j.args)", errors: "coalesce(json(j.errors), '[]')",
	}
	postgresDialect = dialect{
		pg: true, now: "now()", key: `(coalesce(j.metadata ->> 'key', '') COLLATE "C")`, owner: "j.attempted_by[array_upper(j.attempted_by, 1)]",
		args: "j.args::text", errors: "coalesce(array_to_json(j.errors)::text, '[]')",
	}
)

func dialectOf(db *sqldb.DB) dialect {
	if db.Postgres() {
		return postgresDialect
	}
	return sqliteDialect
}

// pick is the text for the database at hand.
func (d dialect) pick(sqlite, postgres string) string {
	if d.pg {
		return postgres
	}
	return sqlite
}

// ago is the time of the database less the number of milliseconds in a parameter such as $1.
func (d dialect) ago(param string) string {
	return d.pick("datetime('now', 'subsec', '-' || ("+param+" / 1000.0) || ' seconds')", "(now() - "+param+"::bigint * interval '1 millisecond')")
}

// state is the state of the row j as text.
func (d dialect) state() string {
	return "j.state" + d.cast("text")
}

// cast is what stands after a parameter that is of the type on PostgreSQL. SQLite has text for it.
func (d dialect) cast(pgType string) string {
	return d.pick("", "::"+pgType)
}

// userState is the user's state of the row j. The engine calls a job available up to 5 s before its
// time.
func (d dialect) userState() string {
	return `CASE
		WHEN j.state IN ('running', 'completed', 'cancelled') THEN ` + d.state() + `
		WHEN j.state = 'discarded' THEN 'dead'
		WHEN j.state = 'retryable' THEN 'retrying'
		WHEN j.state = 'scheduled' OR j.state = 'available' AND j.scheduled_at > ` + d.now + `
			THEN CASE WHEN j.attempt > 0 OR j.metadata ->> 'snoozes' IS NOT NULL THEN 'retrying' ELSE 'scheduled' END
		ELSE 'queued' END`
}

// remembered says of the row j, and k of jobs_keys, that the job is completed and still holds the key.
func (d dialect) remembered() string {
	return "j.state = 'completed' AND " + d.millisOf("j.finalized_at") + " + k.ttl_ms > " + d.millis()
}

// ids turns a parameter with a JSON array of ids into a condition on column.
func (d dialect) ids(column, param string) string {
	return column + " IN (" + d.pick("SELECT value FROM json_each("+param+")", "SELECT value::bigint FROM json_array_elements_text("+param+"::json)") + ")"
}

// bare is an expression on the row j for a place that names no row: an index, or an UPDATE.
func bare(expression string) string { return strings.ReplaceAll(expression, "j.", "") }
