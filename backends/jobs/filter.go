package jobs

import (
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

// maxSearch is the longest text that errors are searched for.
const maxSearch = 200

// filter chooses jobs; an empty member chooses all. As JSON it is part of the body of bulk requests, and
// its members are the parameters of lists.
type filter struct {
	Queue string `json:"queue"`
	State string `json:"state"`
	// Kind is push, or the in-process kind of jobs on the queue internal.
	Kind string `json:"kind"`
	Key  string `json:"key"`
	// Owner is whose jobs they are. For a user it is the user.
	Owner string `json:"owner"`
	// Error is part of the message of the last failed attempt, in upper or lower case.
	Error string `json:"error"`
	// Since and Until bound the time at which the job ended, or was created if it has not: RFC 3339.
	Since string `json:"since"`
	Until string `json:"until"`

	since, until time.Time
}

// filterOf reads the parameters of a list.
func filterOf(q url.Values) (*filter, error) {
	f := &filter{
		Queue: q.Get("queue"), State: q.Get("state"), Kind: q.Get("kind"), Key: q.Get("key"), Owner: q.Get("owner"),
		Error: q.Get("error"), Since: q.Get("since"), Until: q.Get("until"),
	}
	return f, f.check()
}

// check says what is wrong with the filter.
func (f *filter) check() (err error) {
	if _, ok := engineStates[f.State]; !ok && f.State != "" {
		return problem.New(problem.InvalidRequest, "state must be one of: %s.", strings.Join(slices.Sorted(maps.Keys(engineStates)), ", "))
	}
	for _, member := range []struct {
		name, value string
		most        int
	}{{"queue", f.Queue, maxName}, {"kind", f.Kind, maxKey}, {"key", f.Key, maxKey}, {"owner", f.Owner, maxKey}, {"error", f.Error, maxSearch}} {
		if len(member.value) > member.most || hasControl(member.value) {
			return problem.New(problem.InvalidRequest, "%s must have at most %d bytes and no control characters.", member.name, member.most)
		}
	}
	if f.since, err = momentOf("since", f.Since); err != nil {
		return err
	}
	f.until, err = momentOf("until", f.Until)
	return err
}

func momentOf(member, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, problem.New(problem.InvalidRequest, "%s must be a time as in RFC 3339, such as \"2027-06-01T09:00:00Z\".", member)
	}
	return t, nil
}

// empty says that the filter chooses every job.
func (f *filter) empty() bool {
	return f.Queue == "" && f.State == "" && f.Kind == "" && f.Key == "" && f.Owner == "" && f.Error == "" && f.since.IsZero() && f.until.IsZero()
}

// where is the condition on the row j, with its arguments. Only ids below before are chosen.
func (f *filter) where(d dialect, before int64) (condition string, args []any) {
	all, args := []string{"j.id < $1"}, []any{before}
	add := func(condition string, arg any) {
		args = append(args, arg)
		all = append(all, strings.ReplaceAll(condition, "$?", "$"+strconv.Itoa(len(args))))
	}
	if f.Queue != "" {
		add("j.queue = $?", f.Queue)
	}
	if f.State != "" {
		all = append(all, "j.state IN ("+engineStates[f.State]+")")
	}
	switch f.State {
	case "", stateRunning, stateCompleted, stateDead, stateCancelled: // the engine has the same
	default:
		add(d.userState()+" = $?", f.State)
	}
	switch f.Kind {
	case "":
	case (pushArgs{}).Kind():
		add("j.kind = $?", f.Kind)
	default:
		all = append(all, "j.kind = '"+callArgs{}.Kind()+"'")
		add("j.args ->> 'kind' = $?", f.Kind)
	}
	if f.Key != "" {
		add(d.key+" = $?", f.Key)
	}
	if f.Owner != "" {
		add("j.metadata ->> 'owner' = $?", f.Owner)
	}
	if f.Error != "" {
		add(d.lastMessage()+d.pick(" LIKE ", " ILIKE ")+`$? ESCAPE '\'`, "%"+likeText.Replace(f.Error)+"%")
	}
	column := "coalesce(j.finalized_at, j.created_at)"
	switch f.State {
	case stateCompleted, stateDead, stateCancelled:
		column = "j.finalized_at" // which has an index
	case "":
	default:
		column = "j.created_at"
	}
	if !f.since.IsZero() {
		add(column+" >= $?", d.time(f.since))
	}
	if !f.until.IsZero() {
		add(column+" < $?", d.time(f.until))
	}
	return strings.Join(all, " AND "), args
}

var likeText = strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`)
