package httpcache

import (
	"net/http"
	"strings"
	"time"

	"github.com/dunglas/httpsfv"
)

// parseDate reads an HTTP date in one of its three forms (RFC 9110 section 5.6.7) and in no other:
// the length must be right and the zone must be GMT. Names may be in any case.
func parseDate(s string) (time.Time, bool) {
	var layout string
	comma := strings.IndexByte(s, ',')
	switch {
	case comma == 3 && len(s) == len(http.TimeFormat):
		layout = http.TimeFormat
	case comma >= len("Monday") && len(s)-comma == len(", 02-Jan-06 15:04:05 GMT"):
		layout = "Monday, 02-Jan-06 15:04:05 GMT"
	case comma < 0 && len(s) == len(time.ANSIC):
		layout = time.ANSIC
	default:
		return time.Time{}, false
	}
	t, err := time.Parse(layout, s)
	return t, err == nil
}

// onlyDate is the date in a field that must stand on exactly one line.
func onlyDate(lines []string) (time.Time, bool) {
	if len(lines) != 1 {
		return time.Time{}, false
	}
	return parseDate(lines[0])
}

// lifetime is how long a response is fresh from its Date on, for a shared cache (RFC 9111 section
// 4.2.1), and whether it says so itself. CDN-Cache-Control comes before all others; heuristics are
// not used. received stands for a Date that
// is missing or not valid.
func lifetime(c control, h http.Header, received time.Time) (time.Duration, bool) {
	targeted := targetedAge(h["Cdn-Cache-Control"])
	switch {
	case targeted.set:
		return time.Duration(targeted.n) * time.Second, true
	case c.sMaxAge.set:
		return time.Duration(c.sMaxAge.n) * time.Second, true
	case c.maxAge.set:
		return time.Duration(c.maxAge.n) * time.Second, true
	case len(h["Expires"]) == 0:
		return 0, false
	}
	expires, ok := onlyDate(h["Expires"])
	if !ok {
		return 0, true // such as "0": already stale
	}
	date, ok := onlyDate(h["Date"])
	if !ok {
		date = received
	}
	return min(expires.Sub(date), maxSeconds*time.Second), true
}

// targetedAge is max-age of CDN-Cache-Control, a structured dictionary (RFC 9213 section 2.1): a
// field that is malformed counts for nothing.
func targetedAge(lines []string) seconds {
	if len(lines) == 0 {
		return seconds{}
	}
	d, err := httpsfv.UnmarshalDictionary(lines)
	if err != nil {
		return seconds{}
	}
	m, _ := d.Get("max-age")
	item, _ := m.(httpsfv.Item)
	n, ok := item.Value.(int64)
	return seconds{min(max(0, n), maxSeconds), ok}
}

// initialAge is how old a response was when it was received (RFC 9111 section 4.2.3).
func initialAge(h http.Header, asked, received time.Time) time.Duration {
	delay := max(0, received.Sub(asked))
	corrected := delay
	if lines := h["Age"]; len(lines) > 0 {
		first, _, _ := strings.Cut(lines[0], ",")
		if n, ok := parseDigits(strings.Trim(first, " \t")); ok {
			corrected += time.Duration(n) * time.Second
		}
	}
	apparent := time.Duration(0)
	if date, ok := onlyDate(h["Date"]); ok {
		apparent = received.Sub(date).Truncate(time.Second) // Date has whole seconds
	}
	return max(apparent, corrected)
}
