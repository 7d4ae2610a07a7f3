package jobs

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/httpapi"
)

const (
	// maxGrouped is how many jobs are looked at, the newest.
	maxGrouped = 100_000
	// maxGroups is the most groups; what would be one more is counted in the group of all others.
	maxGroups = 2000
	// maxCause is how much of a message tells causes apart.
	maxCause = 200
	// otherCause is the message of the group of all others.
	otherCause = "other errors"
)

// Group is the jobs that failed for one cause.
type Group struct {
	// Cause names the status and the message. POST /jobs/retry and /jobs/cancel take it. It is empty for the
	// group of all others, and so is Queue.
	Cause string `json:"cause"`
	Queue string `json:"queue"`
	// Status is that of the target's answer, absent if there was none.
	Status int `json:"status,omitempty"`
	// Message is the error with placeholders for what differs from job to job: <n>, <hex>, <uuid>, <text>.
	Message string `json:"message"`
	Count   int    `json:"count"`
	// First and Last are when the first and the last of them ended, or failed if they have not.
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
	// ExampleID is the newest of the jobs.
	ExampleID string `json:"example_id"`
}

// Groups is the answer to GET /jobs/groups, the largest group first.
type Groups struct {
	Items []Group `json:"items"`
	// Looked is how many jobs were looked at, the newest.
	Looked int `json:"looked"`
	// Truncated says that there are more jobs than were looked at, or more groups than are shown.
	Truncated bool `json:"truncated"`
}

func (s *Service) getGroups(w http.ResponseWriter, r *http.Request) error {
	limit, _, err := httpapi.PageOf(r)
	if err != nil {
		return err
	}
	f, err := filterOf(r.URL.Query())
	if err != nil {
		return err
	}
	f.restrict(httpapi.CallerOf(r.Context()))
	f.State = cmp.Or(f.State, stateDead)
	ctx, cancel := context.WithTimeout(r.Context(), listTime)
	defer cancel()
	groups, err := s.groups(ctx, f, limit)
	if err != nil {
		return slow(ctx, err)
	}
	return httpapi.WriteJSON(w, http.StatusOK, groups)
}

// groups reads the chosen jobs one by one; only the groups are in memory.
func (s *Service) groups(ctx context.Context, f *filter, limit int) (Groups, error) {
	type place struct{ queue, cause string }
	all := map[place]*Group{}
	g := Groups{Items: []Group{}}
	err := s.eachError(ctx, f, math.MaxInt64, maxGrouped+1, func(e *lastError) {
		if g.Looked == maxGrouped {
			g.Truncated = true
			return
		}
		g.Looked++
		at := place{e.queue, e.cause()}
		one := all[at]
		if one == nil && len(all) >= maxGroups {
			at, e.status, e.normalised = place{}, 0, otherCause
			one = all[at]
		}
		if one == nil {
			one = &Group{Cause: at.cause, Queue: at.queue, Status: e.status, Message: e.normal(), First: e.at, Last: e.at, ExampleID: itoa(e.id)}
			all[at] = one
		}
		one.Count++
		if e.at.Before(one.First) {
			one.First = e.at
		}
		if e.at.After(one.Last) {
			one.Last = e.at
		}
	})
	if err != nil {
		return Groups{}, err
	}
	for _, one := range all {
		g.Items = append(g.Items, *one)
	}
	slices.SortFunc(g.Items, func(a, b Group) int {
		return cmp.Or(b.Count-a.Count, b.Last.Compare(a.Last), cmp.Compare(a.Queue+a.Cause, b.Queue+b.Cause))
	})
	if len(g.Items) > limit {
		g.Items, g.Truncated = g.Items[:limit], true
	}
	return g, nil
}

// lastError is the last failure of a job.
type lastError struct {
	id      int64
	queue   string
	at      time.Time
	status  int
	message string

	normalised string
}

// normal is the message with placeholders.
func (e *lastError) normal() string {
	if e.normalised == "" {
		e.normalised = normalise(e.message)
	}
	return e.normalised
}

// cause names the status and the message.
func (e *lastError) cause() string {
	sum := sha256.Sum256([]byte(strconv.Itoa(e.status) + " " + e.normal()))
	return hex.EncodeToString(sum[:8])
}

// eachError reads the chosen jobs, the newest first. The ids are found before the rest is read, so that
// the database has no more than those to sort.
func (s *Service) eachError(ctx context.Context, f *filter, before int64, limit int, do func(e *lastError)) error {
	where, args := f.where(s.q, before)
	//nolint:gosec // the pieces are ours, what comes from outside is a parameter
	rows, err := s.db.Read.QueryContext(ctx, `SELECT j.id, j.queue, `+s.q.millisOf("coalesce(j.finalized_at, j.attempted_at, j.created_at)")+`,
		coalesce(`+s.q.lastMessage()+`, '') FROM river_job j WHERE j.id IN (SELECT j.id FROM river_job j WHERE `+where+
		" ORDER BY j.id DESC LIMIT "+strconv.Itoa(limit)+") ORDER BY j.id DESC", args...)
	if err != nil {
		return fmt.Errorf("reading the errors of jobs: %w", err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var e lastError
		var at int64
		var record string
		if err = rows.Scan(&e.id, &e.queue, &at, &record); err != nil {
			return fmt.Errorf("reading the errors of jobs: %w", err)
		}
		e.at = time.UnixMilli(at).UTC()
		e.status, _ = statusOf(record)
		e.message = messageOf(record)
		do(&e)
	}
	return rows.Err()
}

// normalise puts placeholders for what of a message differs from job to job: quoted text, UUIDs,
// hexadecimal numbers and numbers.
func normalise(message string) string {
	var b strings.Builder
	text := clean(message)
	for i := 0; i < len(text) && b.Len() < maxCause; {
		c := text[i]
		if n := quoted(text[i:]); n > 0 && (i == 0 || !isWord(text[i-1])) {
			b.WriteString("<text>")
			i += n
			continue
		}
		if !isWord(c) {
			b.WriteByte(c)
			i++
			continue
		}
		n := 1
		for i+n < len(text) && isWord(text[i+n]) {
			n++
		}
		if isUUID(text[i:]) {
			b.WriteString("<uuid>")
			i += len("00000000-0000-0000-0000-000000000000")
			continue
		}
		b.WriteString(wordOf(text[i : i+n]))
		i += n
	}
	s := b.String()
	if len(s) > maxCause {
		s = s[:maxCause]
	}
	return strings.ToValidUTF8(s, "")
}

// quoted is the length of the quotation that s begins with, 0 if it begins with none.
func quoted(s string) int {
	if strings.IndexByte("\"'`", s[0]) < 0 {
		return 0
	}
	end := strings.IndexByte(s[1:], s[0])
	if end < 0 || s[0] == '\'' && end+2 < len(s) && isWord(s[end+2]) { // an apostrophe
		return 0
	}
	return end + 2
}

func isWord(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_'
}

func isHex(c byte) bool { return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F' }

// isUUID says whether s begins with one.
func isUUID(s string) bool {
	const form = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"
	if len(s) < len(form) || len(s) > len(form) && isWord(s[len(form)]) {
		return false
	}
	for i := range len(form) {
		if form[i] == 'x' && !isHex(s[i]) || form[i] == '-' && s[i] != '-' {
			return false
		}
	}
	return true
}

// wordOf is a word with placeholders: one of 8 or more hexadecimal digits, numbers among them, is <hex>;
// within others, each number is <n>.
func wordOf(word string) string {
	digits := strings.ContainsAny(word, "0123456789")
	if !digits {
		return word
	}
	bare := strings.TrimPrefix(word, "0x")
	hexadecimal := bare != word || len(bare) >= 8 && strings.Trim(bare, "0123456789") != ""
	for i := 0; hexadecimal && i < len(bare); i++ {
		hexadecimal = isHex(bare[i])
	}
	if hexadecimal {
		return "<hex>"
	}
	var b strings.Builder
	for i := 0; i < len(word); i++ {
		if word[i] < '0' || word[i] > '9' {
			b.WriteByte(word[i])
		} else if i == 0 || word[i-1] < '0' || word[i-1] > '9' {
			b.WriteString("<n>")
		}
	}
	return b.String()
}
