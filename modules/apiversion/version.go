package apiversion

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"time"
)

// Version is one version of the API.
type Version struct {
	// Name is the path segment that asks for the version, such as v1. Letters, digits, '.', '_' and
	// '-', at most 64, matched exactly. Required.
	Name string `json:"name"`
	// Deprecated is when the version is or was deprecated (RFC 9745). It is announced in every
	// response, also before that date. Default: it is not deprecated.
	Deprecated Date `json:"deprecated,omitzero"`
	// Sunset is when the version ends (RFC 8594): from then on it is answered 410. Not before
	// Deprecated, but it may stand alone. Default: never.
	Sunset Date `json:"sunset,omitzero"`
	// Successor is the name of the version to use instead. Default: none is named.
	Successor string `json:"successor,omitempty"`
	// Links point to documentation and are sent with every response of the version.
	Links []Link `json:"links,omitempty"`
}

// Link is a target and its relation (RFC 8288).
type Link struct {
	// Rel is the relation, such as deprecation or sunset. Required.
	Rel string `json:"rel"`
	// URL is the target: absolute with http or https, or a path. Required.
	URL string `json:"url"`
	// Type is the media type of the target, such as text/html. Default: not told.
	Type string `json:"type,omitempty"`
}

// Date is a point in time, in whole seconds. In JSON it is a string in one of the forms of ParseDate.
type Date struct{ time.Time }

// rfc3339 is what time.Parse is too lenient about: it takes 1:00:00 and a decimal comma.
var rfc3339 = regexp.MustCompile(`^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,9})?(Z|[+-]\d{2}:\d{2})$`)

// ParseDate reads 2027-06-01, which is midnight UTC, or a time of RFC 3339, from 1970 on.
func ParseDate(s string) (Date, error) {
	t, err := time.Parse(time.DateOnly, s)
	if err != nil && rfc3339.MatchString(s) {
		t, err = time.Parse(time.RFC3339, s)
	}
	if err == nil && t.Unix() >= 0 {
		return Date{t.UTC().Truncate(time.Second)}, nil
	}
	return Date{}, fmt.Errorf("%.80q is not a date: write 2027-06-01, which is midnight UTC, or 2027-06-01T12:00:00Z", s)
}

// UnmarshalJSON reads a string.
func (d *Date) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("%.80s is not a date: write a string such as \"2027-06-01\"", b)
	}
	v, err := ParseDate(s)
	*d = v
	return err
}

// Status is where a version stands in its life.
type Status string

// The stations of a version's life.
const (
	Current    Status = "current"
	Deprecated Status = "deprecated"
	Sunset     Status = "sunset"
)

// Status is the version's status at now. A date has come when it is now.
func (v *Version) Status(now time.Time) Status {
	switch {
	case !v.Sunset.IsZero() && !now.Before(v.Sunset.Time):
		return Sunset
	case !v.Deprecated.IsZero() && !now.Before(v.Deprecated.Time):
		return Deprecated
	}
	return Current
}

var (
	versionName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	relation    = regexp.MustCompile(`^[a-z][a-z0-9.-]*$`)
	mediaType   = regexp.MustCompile(`^[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+$`)
	linkTarget  = regexp.MustCompile(`^[A-Za-z0-9._~:/?#@!$&'()*+,;=%\[\]-]+$`)
)

// check says what is wrong with v alone.
func (v *Version) check() error {
	if !versionName.MatchString(v.Name) {
		return fmt.Errorf("the version name %.80q must be 1 to 64 letters, digits, '.', '_' or '-', and begin with a letter or digit", v.Name)
	}
	if !v.Sunset.IsZero() && v.Sunset.Before(v.Deprecated.Time) {
		return fmt.Errorf("version %s: the sunset %s is before the deprecation %s, put it after", v.Name, day(v.Sunset), day(v.Deprecated))
	}
	for _, l := range v.Links {
		if err := l.check(); err != nil {
			return fmt.Errorf("version %s: %w", v.Name, err)
		}
	}
	return nil
}

func (l Link) check() error {
	if !relation.MatchString(l.Rel) {
		return fmt.Errorf("link: %.80q is not a relation, write one such as deprecation or sunset", l.Rel)
	}
	if l.Rel == "successor-version" {
		return errors.New("link: successor-version is sent for each resource, write successor and a version's name instead")
	}
	u, err := url.Parse(l.URL)
	if err != nil || !linkTarget.MatchString(l.URL) || !((u.Scheme == "https" || u.Scheme == "http") && u.Host != "" || u.Scheme == "" && u.Host == "" && l.URL[0] == '/') {
		return fmt.Errorf("link %s: %.200q is not a URL, write one such as https://docs.example.com/v1 or a path", l.Rel, l.URL)
	}
	if l.Type != "" && !mediaType.MatchString(l.Type) {
		return fmt.Errorf("link %s: %.80q is not a media type, write one such as text/html", l.Rel, l.Type)
	}
	return nil
}

// String is the link as a value of the Link field.
func (l Link) String() string {
	s := "<" + l.URL + `>; rel="` + l.Rel + `"`
	if l.Type != "" {
		s += `; type="` + l.Type + `"`
	}
	return s
}

// deprecation is the value of the Deprecation field: a date of RFC 9651.
func (d Date) deprecation() string { return "@" + strconv.FormatInt(d.Unix(), 10) }

// day is d for people, without the time of day where it is midnight.
func day(d Date) string {
	if d.Equal(d.Truncate(24 * time.Hour)) {
		return d.UTC().Format(time.DateOnly)
	}
	return d.UTC().Format(time.RFC3339)
}
