package limit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/modules/limit/policy"
)

// maxLine bounds a line of an access log.
const maxLine = 1 << 20

// Simulation is what a limit would have done to the requests of an access log.
type Simulation struct {
	// Requests were counted; Lines of other kinds, or that cannot be read, were left out.
	Requests int `json:"requests"`
	LeftOut  int `json:"left_out"`
	// Refused would have been answered 429.
	Refused int `json:"refused"`
	// Keys is how many there were, RefusedKeys how many of them would have been refused at least once.
	Keys        int `json:"keys"`
	RefusedKeys int `json:"refused_keys"`
	// ByPolicy is how often each policy had no room.
	ByPolicy map[string]int `json:"by_policy"`
	// Items are the keys that would have been refused, those with the most refusals first.
	Items []Simulated `json:"items"`
	// From and To are the times of the first and the last request.
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
}

// Simulated is one key of a simulation.
type Simulated struct {
	Key      string    `json:"key"`
	Requests int       `json:"requests"`
	Refused  int       `json:"refused"`
	First    time.Time `json:"first_refused"`
}

// entry is what a simulation reads of a line of Caddy's JSON access log.
type entry struct {
	TS      json.RawMessage `json:"ts"`
	UserID  string          `json:"user_id"`
	Request *struct {
		RemoteIP string      `json:"remote_ip"`
		ClientIP string      `json:"client_ip"`
		Host     string      `json:"host"`
		Method   string      `json:"method"`
		Headers  http.Header `json:"headers"`
	} `json:"request"`
}

// parseBy reads by what a simulation counts.
func parseBy(by string) (func(*entry) (value string, address bool), error) {
	switch name := strings.TrimSuffix(strings.TrimPrefix(by, "{"), "}"); name {
	case "client_ip", clientIP:
		return func(e *entry) (string, bool) {
			if e.Request.ClientIP != "" {
				return e.Request.ClientIP, true
			}
			return e.Request.RemoteIP, true
		}, nil
	case "user_id", "http.auth.user.id":
		return func(e *entry) (string, bool) {
			if e.UserID != "" {
				return e.UserID, false
			}
			return e.Request.ClientIP, true
		}, nil
	case "host", "http.request.host":
		return func(e *entry) (string, bool) { return e.Request.Host, false }, nil
	default:
		field, ok := strings.CutPrefix(name, "header.")
		if !ok {
			field, ok = strings.CutPrefix(name, headerPrefix)
		}
		if !ok || field == "" {
			return nil, fmt.Errorf("%.80q is not in an access log: count by {client_ip}, {http.auth.user.id}, {host} or {header.NAME}", by)
		}
		field = http.CanonicalHeaderKey(field)
		return func(e *entry) (string, bool) {
			if v := e.Request.Headers[field]; len(v) > 0 {
				return v[0], false
			}
			return e.Request.ClientIP, true
		}, nil
	}
}

// simulate replays an access log against policies. Each of the n keys refused most is named.
func simulate(log io.Reader, policies []policy.Policy, by string, n int) (*Simulation, error) {
	value, err := parseBy(by)
	if err != nil {
		return nil, err
	}
	type key struct {
		state []int64
		Simulated
	}
	rates := policy.Compile(policies)
	keys := map[string]*key{}
	s := &Simulation{ByPolicy: map[string]int{}, Items: []Simulated{}}
	for _, p := range policies {
		s.ByPolicy[p.Name] = 0
	}
	lines := bufio.NewReaderSize(log, 64<<10)
	for {
		line, err := readLine(lines)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("reading the log: %w", err)
		}
		var e entry
		if json.Unmarshal(line, &e) != nil || e.Request == nil {
			s.LeftOut++
			continue
		}
		at, ok := parseTime(e.TS)
		if !ok {
			s.LeftOut++
			continue
		}
		text, address := value(&e)
		if ip := defaultGrouping.network(text); address && ip.IsValid() {
			text = ip.String()
		}
		text = printable(text)
		k := keys[text]
		if k == nil {
			k = &key{state: make([]int64, policy.Words(rates)), Simulated: Simulated{Key: text}}
			keys[text] = k
		}
		v := policy.Decide(at.UnixNano(), rates, k.state, 1)
		s.Requests++
		k.Requests++
		if s.From.IsZero() || at.Before(s.From) {
			s.From = at
		}
		if at.After(s.To) {
			s.To = at
		}
		if v.Allowed {
			continue
		}
		s.Refused++
		if k.Refused++; k.Refused == 1 {
			s.RefusedKeys++
			k.First = at
		}
		for i, p := range policies {
			if v.Answers[i].Violated {
				s.ByPolicy[p.Name]++
			}
		}
	}
	s.Keys = len(keys)
	for _, k := range slices.SortedFunc(maps.Values(keys), func(a, b *key) int {
		if a.Refused != b.Refused {
			return b.Refused - a.Refused
		}
		return strings.Compare(a.Key, b.Key)
	}) {
		if k.Refused == 0 || len(s.Items) >= n {
			break
		}
		s.Items = append(s.Items, k.Simulated)
	}
	return s, nil
}

// readLine is the next line; of one that is too long the start, which is no JSON.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(line) < maxLine {
			line = append(line, part...)
		}
		switch {
		case err == nil, errors.Is(err, io.EOF) && len(line) > 0:
			return bytes.TrimSpace(line), nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		}
	}
}

// parseTime reads the forms in which Caddy's log encoders write ts: seconds, milliseconds or
// nanoseconds since the Unix epoch, and the usual texts.
func parseTime(raw json.RawMessage) (time.Time, bool) {
	var n float64
	if json.Unmarshal(raw, &n) == nil {
		for n > 1e11 { // later than the year 5000 in seconds, so it counts something smaller
			n /= 1000
		}
		if n <= 0 || math.IsNaN(n) {
			return time.Time{}, false
		}
		return time.UnixMicro(int64(n * 1e6)).UTC(), true
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return time.Time{}, false
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.000Z0700", "2006/01/02 15:04:05.000", "2006/01/02 15:04:05", "02/Jan/2006:15:04:05 -0700"} {
		if t, err := time.Parse(layout, s); err == nil && t.Unix() > 0 && t.Year() < 2200 {
			return t.UTC(), true
		}
	}
	return time.Time{}, false
}
