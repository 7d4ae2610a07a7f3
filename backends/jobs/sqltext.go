package jobs

import (
	"database/sql"
	"time"
)

// What this file adds to the dialect is what the HTTP API reads and changes on the engine's table.

// time is the argument for a time that is compared with a column of the engine.
func (d dialect) time(t time.Time) any {
	if d.pg {
		return t.UTC()
	}
	return t.UTC().Round(time.Millisecond).Format("2006-01-02 15:04:05.000")
}

// millisOf is the time of a column of the engine in milliseconds since 1970.
func (d dialect) millisOf(column string) string {
	return d.pick("CAST(round(unixepoch("+column+", 'subsec') * 1000) AS INTEGER)", "CAST(extract(epoch FROM "+column+") * 1000 AS BIGINT)")
}

// lastErrors is errors with the last one alone.
func (d dialect) lastErrors() string {
	return d.pick("coalesce('[' || json_extract(j.errors, '$[#-1]') || ']', '[]')",
		"coalesce('[' || CAST(j.errors[array_upper(j.errors, 1)] AS TEXT) || ']', '[]')")
}

// lastMessage is the text of the last error of the row j, null if it has none.
func (d dialect) lastMessage() string {
	return d.pick("json_extract(j.errors, '$[#-1].error')", "(j.errors[array_upper(j.errors, 1)] ->> 'error')")
}

// withBody is args with the payload of a parameter, which is base64.
func (d dialect) withBody(param string) string {
	return d.pick("jsonb_set(args, '$.body', "+param+")", "jsonb_set(args, '{body}', to_jsonb(CAST("+param+" AS TEXT)))")
}

// jsonb is a parameter with JSON text as the engine's columns store it.
func (d dialect) jsonb(param string) string {
	return d.pick("jsonb("+param+")", "CAST("+param+" AS JSONB)")
}

// withCancel is metadata with the time in a parameter at which the job was asked to stop.
func (d dialect) withCancel(param string) string {
	return d.pick("jsonb_set(metadata, '$.cancel_attempted_at', "+param+")",
		"jsonb_set(metadata, '{cancel_attempted_at}', to_jsonb(CAST("+param+" AS TEXT)))")
}

// anew is metadata without what the last run left. The job's next end is told to its callback again, and
// its age begins anew.
func (d dialect) anew() string {
	return d.pick("jsonb_set(jsonb_replace(jsonb_remove(metadata, '$.cancel_attempted_at', '$.progress', '$.output'), '$.callback', 'due'), '$.retried_at', "+d.millis()+")",
		`jsonb_set(jsonb_set(metadata - 'cancel_attempted_at' - 'progress' - 'output', '{callback}', '"due"', false), '{retried_at}', to_jsonb(`+d.millis()+`))`)
}

// notified is metadata after the push to the callback was enqueued.
func (d dialect) notified() string {
	return d.pick("jsonb_set(metadata, '$.callback', 'done')", `jsonb_set(metadata, '{callback}', '"done"')`)
}

// callbackDue says of the row j that it ended and that its callback was not told yet. The index
// jobs_callbacks_due has the same words.
const callbackDue = `j.finalized_at IS NOT NULL AND j.metadata ->> 'callback' = 'due'`

// forUpdate locks the rows that a SELECT reads. SQLite has one writer, which needs no lock.
func (d dialect) forUpdate() string { return d.pick("", " FOR UPDATE") }

// column reads the one column of a query and closes its rows.
func column[T any](rows *sql.Rows, err error) (all []T, _ error) {
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var v T
		if err = rows.Scan(&v); err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, rows.Err()
}
