// Package remote is what the sources of secrets on other machines have in common.
package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/loopback"
	"github.com/gatehouse-proxy/gatehouse/internal/secret"
)

// MaxBody is the largest answer that is read.
const MaxBody = 1 << 20

// StepTime bounds each step of a change: reading, writing, and finding out whether it was written.
const StepTime = 5 * time.Second

const maxNames = 10

// Turn lets one fetch or change at a time use a store, which keeps what it has learned of the other machine.
// Its one element is whoever has the turn.
type Turn chan struct{}

// NewTurn is a turn that nobody has.
func NewTurn() Turn { return make(Turn, 1) }

// Take waits until nobody else has the turn. Whoever took it gives it back.
func (t Turn) Take(ctx context.Context) error {
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for the fetch before: %w", ctx.Err())
	}
}

// Give gives the turn back.
func (t Turn) Give() { <-t }

// CheckURL says whether secrets may be fetched from there: by https, or by http from this machine
// itself. setting names the URL in the error.
func CheckURL(setting, s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return fmt.Errorf("%s must be a URL such as https://host:8200, with its scheme", setting)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return fmt.Errorf("%s must have no user, password, parameters or fragment, write https://host:8200", setting)
	case u.Scheme == "http" && !loopback.Host(u.Hostname()):
		return fmt.Errorf("%s %s: secrets must come by https, plain http is for this machine alone", setting, s)
	}
	return nil
}

// Field is the content of one field: a string's text, or other JSON as it is, such as a versions
// document or a JWK. Its error names the fields that are there, never what they hold.
func Field(fields map[string]json.RawMessage, name string) ([]byte, error) {
	raw, ok := fields[name]
	if !ok || string(raw) == "null" {
		if len(fields) == 0 {
			return nil, fmt.Errorf("it has no field at all, write the secret into its field %q", name)
		}
		names := slices.Sorted(maps.Keys(fields))
		for i, n := range names[:min(len(names), maxNames)] {
			names[i] = fmt.Sprintf("%.40q", n)
		}
		more := ""
		if len(names) > maxNames {
			names, more = names[:maxNames], " and more"
		}
		return nil, fmt.Errorf("it has no field %q but %s%s: name one with field, or add it", name, strings.Join(names, ", "), more)
	}
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return []byte(text), nil
	}
	return raw, nil
}

// Put is fields with content, which is JSON, in the field of that name: as text where there was text, else
// as the JSON that it is, so that Field gives it back.
func Put(fields map[string]json.RawMessage, name string, content []byte) (map[string]json.RawMessage, error) {
	raw := json.RawMessage(content)
	if bytes.HasPrefix(fields[name], []byte(`"`)) {
		text, err := json.Marshal(string(content))
		if err != nil {
			return nil, fmt.Errorf("encoding the field: %w", err)
		}
		raw = text
	}
	changed := maps.Clone(fields)
	changed[name] = raw
	return changed, nil
}

// ErrNoObject is for a content of which a field was asked for and which has none.
var ErrNoObject = errors.New("it is no JSON object, so it has no fields: leave out field, or write the secret as one")

// Before adds to the versions in force those that they replaced at the given time, which verify for the
// overlap from then on. A value that is there already is not added again, nor is one that was to become
// active later: it never did.
func Before(versions, replaced []secret.Version, at time.Time, overlap time.Duration, label string) []secret.Version {
	until := at.Add(overlap)
	for _, old := range replaced {
		if old.ActiveFrom.After(at) || slices.ContainsFunc(versions, func(v secret.Version) bool { return v.Value.Equal(old.Value) }) {
			continue
		}
		old.ActiveFrom = time.Time{}
		if old.RetireAt.IsZero() || until.Before(old.RetireAt) {
			old.RetireAt = until
		}
		if slices.ContainsFunc(versions, func(v secret.Version) bool { return v.Label == old.Label }) {
			old.Label += " of " + label
		}
		versions = append(versions, old)
	}
	return versions
}
