package apiversion

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// plan is a compiled configuration.
type plan struct {
	prefix   string   // without trailing slash, so "" is the root
	within   []string // the segments of prefix
	names    []string
	versions map[string]*version
	latest   *version
}

type version struct {
	Version
	successor   *version
	deprecation []string // the values of the response fields, nil for none
	sunset      []string
	links       []string
}

// Decision is what to do with one request.
type Decision struct {
	// version is the one asked for; nil if the path is none of the API's or names no version.
	version *version
	// Status is that of the version; Sunset means that the request is refused.
	Status Status
	// unknown is set where the path names a version that there is not.
	unknown bool
	// rewritten is set where the path named no version: path and raw are the new ones.
	rewritten bool
	path, raw string
	// successor is the escaped path of the same resource in the version to use instead, "" if there is none.
	successor string
}

// compile checks the configuration as a whole.
func compile(prefix string, versions []Version, latest string) (*plan, error) {
	p := &plan{prefix: strings.TrimSuffix(prefix, "/"), versions: map[string]*version{}}
	switch {
	case prefix == "":
		return nil, errors.New("from is missing, write where the version stands, such as: from path /api")
	case prefix[0] != '/' || odd(prefix) || strings.ContainsAny(prefix, "*{}?#% "):
		return nil, fmt.Errorf("the prefix %.200q must be a plain path such as /api or /", prefix)
	case len(versions) == 0:
		return nil, errors.New("no version is given, write at least one, such as: version v1")
	}
	p.within = segments(p.prefix)
	for _, v := range versions {
		if err := v.check(); err != nil {
			return nil, err
		}
		if p.versions[v.Name] != nil {
			return nil, fmt.Errorf("version %s is given twice, keep one", v.Name)
		}
		p.names = append(p.names, v.Name)
		p.versions[v.Name] = newVersion(v)
	}
	for _, name := range p.names {
		if err := p.link(p.versions[name]); err != nil {
			return nil, err
		}
	}
	if latest != "" {
		if p.latest = p.versions[latest]; p.latest == nil {
			return nil, fmt.Errorf("latest %s is not one of the versions: %s", latest, strings.Join(p.names, ", "))
		}
	}
	return p, nil
}

func newVersion(v Version) *version {
	c := &version{Version: v}
	if !v.Deprecated.IsZero() {
		c.deprecation = []string{v.Deprecated.deprecation()}
	}
	if !v.Sunset.IsZero() {
		c.sunset = []string{v.Sunset.UTC().Format(http.TimeFormat)}
	}
	for _, l := range v.Links {
		c.links = append(c.links, l.String())
	}
	return c
}

// link resolves the successor of v and makes sure that following successors ends.
func (p *plan) link(v *version) error {
	if v.Successor == "" {
		return nil
	}
	if v.successor = p.versions[v.Successor]; v.successor == nil {
		return fmt.Errorf("version %s: the successor %s is not one of the versions: %s", v.Name, v.Successor, strings.Join(p.names, ", "))
	}
	chain := []string{v.Name}
	for next := v.successor; next != nil; next = p.versions[next.Successor] {
		chain = append(chain, next.Name)
		if next == v {
			return fmt.Errorf("the successors go in a circle: %s, end it at the newest version", strings.Join(chain, " → "))
		}
		if len(chain) > len(p.names) {
			return nil // a circle that v leads to but is not in: it is named for those in it
		}
	}
	return nil
}

// checkLatest says whether requests without a version could be answered at now.
func (p *plan) checkLatest(now time.Time) error {
	if p.latest != nil && p.latest.Status(now) == Sunset {
		return fmt.Errorf("latest %s has been retired since %s, name a version that lives", p.latest.Name, day(p.latest.Sunset))
	}
	return nil
}

// Decide says what to do with a request for u at now. It changes nothing.
//
// The path is read as path.Clean leaves it, after decoding. Where apps may read it otherwise, a
// retired version is refused wherever the path names it behind the prefix: whatever an app drops
// from a path, what it keeps are segments of the path in their order.
func (p *plan) Decide(now time.Time, u *url.URL) Decision {
	if !strings.HasPrefix(u.Path, "/") { // * and the targets of CONNECT
		return Decision{}
	}
	plain := u.Path
	if odd(u.Path) {
		plain = clean(u.Path)
		if v := p.retired(now, u.Path); v != nil {
			d := Decision{version: v, Status: Sunset}
			if rest, ok := under(plain, p.prefix); ok {
				if name, tail := first(rest); name == v.Name {
					d.successor = p.successor(now, v, u, tail)
				}
			}
			return d
		}
	}
	rest, ok := under(plain, p.prefix)
	if !ok {
		return Decision{unknown: p.nearMiss(plain)}
	}
	name, tail := first(rest)
	v := p.versions[name]
	switch {
	case v == nil && p.looksLikeVersion(name):
		return Decision{unknown: true}
	case v == nil && p.latest == nil:
		return Decision{}
	case v == nil:
		return p.toLatest(now, u, rest)
	}
	return Decision{version: v, Status: v.Status(now), successor: p.successor(now, v, u, tail)}
}

// nearMiss says whether the path names a version behind a prefix that differs from ours in case alone:
// Caddy's own path matchers and some apps take it for the prefix.
func (p *plan) nearMiss(plain string) bool {
	if len(plain) < len(p.prefix) || !strings.EqualFold(plain[:len(p.prefix)], p.prefix) {
		return false
	}
	rest, ok := under(plain, plain[:len(p.prefix)])
	if !ok {
		return false
	}
	name, _ := first(rest)
	return p.versions[name] != nil || p.looksLikeVersion(name)
}

// toLatest is the decision for a path that names no version.
func (p *plan) toLatest(now time.Time, u *url.URL, rest string) Decision {
	v := p.latest
	d := Decision{version: v, Status: v.Status(now), rewritten: true}
	want := p.prefix + "/" + v.Name + rest
	if _, ok := under(u.Path, p.prefix); ok {
		d.path, d.raw = splice(u, len(p.prefix), len(p.prefix), "/"+v.Name)
	}
	if clean(d.path) != want { // the prefix was not where it seemed
		d.path, d.raw = want, ""
	}
	d.successor = p.successor(now, v, &url.URL{Path: d.path, RawPath: d.raw}, rest)
	return d
}

// successor is the escaped path of the resource u, which is tail in version v, in the first of v's
// successors that is not retired.
func (p *plan) successor(now time.Time, v *version, u *url.URL, tail string) string {
	s := v.successor
	for s != nil && s.Status(now) == Sunset {
		s = s.successor
	}
	if s == nil {
		return ""
	}
	want := p.prefix + "/" + s.Name + tail
	target := url.URL{Path: want}
	if from := len(p.prefix) + 1; strings.HasPrefix(u.Path, p.prefix+"/"+v.Name) {
		if decoded, raw := splice(u, from, from+len(v.Name), s.Name); clean(decoded) == want {
			target = url.URL{Path: decoded, RawPath: raw}
		}
	}
	return target.EscapedPath()
}

// retired is the retired version that some app may find in the odd path, nil if there is none.
func (p *plan) retired(now time.Time, odd string) *version {
	within := 0 // how many segments of the prefix are found
	for _, segment := range segments(odd) {
		if within == len(p.within) {
			for _, name := range p.names {
				if strings.EqualFold(name, segment) || strings.EqualFold(name, stem(segment)) {
					if v := p.versions[name]; v.Status(now) == Sunset {
						return v
					}
				}
			}
		} else if segment == p.within[within] {
			within++
		}
	}
	return nil
}

// looksLikeVersion says whether a segment that is no version is meant as one, or might be taken for
// one by an app that is lenient with case or with what follows the name.
func (p *plan) looksLikeVersion(segment string) bool {
	s := stem(segment)
	return numbered.MatchString(s) || slices.ContainsFunc(p.names, func(name string) bool { return strings.EqualFold(name, s) })
}

// living are the names of the versions that are not retired at now, or all if none is left.
func (p *plan) living(now time.Time) []string {
	living := slices.DeleteFunc(slices.Clone(p.names), func(name string) bool { return p.versions[name].Status(now) == Sunset })
	if len(living) == 0 {
		return p.names
	}
	return living
}
