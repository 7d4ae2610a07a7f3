package admission

import (
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"path"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// Condition fits some requests. Exactly one of path, header, claim and method is set.
type Condition struct {
	// Path are paths, whole or up to a * at their end, compared as Caddy's matcher does: without regard
	// to case, after dot segments and double slashes are resolved. A path that has those never raises
	// a request's priority.
	Path []string `json:"path,omitempty"`
	// Header is a field that has one of the values. Clients send what they like: let a header raise
	// the priority only where something in front of this sets or removes it. A field that a request
	// has several times does not fit.
	Header string `json:"header,omitempty"`
	// Claim is a claim of the verified token, {http.auth.user.CLAIM}, that has one of the values.
	Claim string `json:"claim,omitempty"`
	// Values are those of header or claim, compared exactly.
	Values []string `json:"values,omitempty"`
	// Method are request methods.
	Method []string `json:"method,omitempty"`
}

// ClassRule puts requests into a class.
type ClassRule struct {
	// Name is the class.
	Name string `json:"name"`
	Condition
}

// PriorityRule gives requests a priority.
type PriorityRule struct {
	// Priority is high, normal or low.
	Priority string `json:"priority"`
	Condition
}

// request is what conditions look at. The path is resolved, odd says that it had to be.
type request struct {
	*http.Request
	path   string
	odd    bool
	claims claims
}

// claims are those of the request's verified token.
type claims interface{ claim(name string) string }

func (c *Condition) check() error {
	given := 0
	for _, is := range []bool{len(c.Path) > 0, c.Header != "", c.Claim != "", len(c.Method) > 0} {
		if is {
			given++
		}
	}
	valued := c.Header != "" || c.Claim != ""
	switch {
	case given != 1:
		return errors.New("a condition is one of path, header, claim and method")
	case valued && len(c.Values) == 0:
		return fmt.Errorf("%s needs at least one value", c.Header+c.Claim)
	case !valued && len(c.Values) > 0:
		return errors.New("values belong to a header or a claim")
	case c.Header != "" && !httpguts.ValidHeaderFieldName(c.Header):
		return fmt.Errorf("%q is not the name of a header field", c.Header)
	case textproto.CanonicalMIMEHeaderKey(c.Header) == "Host":
		return errors.New("the host is no header field here: give each site its own admission directive")
	case strings.ContainsAny(c.Claim, "{}"):
		return fmt.Errorf("write the claim's name without braces, not %s", c.Claim)
	}
	return checkPaths(c.Path)
}

func checkPaths(paths []string) error {
	for _, p := range paths {
		if !strings.HasPrefix(p, "/") || strings.Contains(strings.TrimSuffix(p, "*"), "*") {
			return fmt.Errorf("the path %q must begin with / and may have a * at its end only", p)
		}
		if clean, odd := resolve(strings.TrimSuffix(p, "*") + "x"); odd {
			return fmt.Errorf("the path %q is never met: it resolves to %s", p, strings.TrimSuffix(clean, "x"))
		}
	}
	return nil
}

// compiled is the condition in the form that fits reads: lower-case paths, the canonical field name.
func (c *Condition) compiled() Condition {
	k := *c
	k.Path = lowered(c.Path)
	k.Header = textproto.CanonicalMIMEHeaderKey(c.Header)
	return k
}

func lowered(paths []string) []string {
	l := make([]string, len(paths))
	for i, p := range paths {
		l[i] = strings.ToLower(p)
	}
	return l
}

func (c *Condition) fits(r *request) bool {
	switch {
	case len(c.Path) > 0:
		return anyPath(c.Path, r.path)
	case len(c.Method) > 0:
		return slices.Contains(c.Method, r.Method)
	case c.Header != "":
		values := r.Header[c.Header]
		return len(values) == 1 && slices.Contains(c.Values, values[0])
	}
	value := r.claims.claim(c.Claim)
	return value != "" && slices.Contains(c.Values, value)
}

func anyPath(patterns []string, path string) bool {
	for _, p := range patterns {
		if prefix, ok := strings.CutSuffix(p, "*"); ok && strings.HasPrefix(path, prefix) || p == path {
			return true
		}
	}
	return false
}

// resolve is the path as Caddy's matcher sees it: in lower case, without dot segments, double slashes
// and what Windows ignores at its end. odd says that more than the case was changed.
func resolve(p string) (clean string, odd bool) {
	if p == "" {
		return "/", true
	}
	for i := range len(p) {
		switch c := p[i]; {
		case c == '/' && i+1 < len(p) && (p[i+1] == '/' || p[i+1] == '.'), c >= 0x80, i == len(p)-1 && (c == '.' || c == ' '), i == 0 && c != '/':
			lower := strings.ToLower(p)
			clean = path.Clean("/" + strings.TrimRight(lower, ". "))
			if strings.HasSuffix(lower, "/") && clean != "/" {
				clean += "/"
			}
			return clean, clean != lower
		}
	}
	return strings.ToLower(p), false // no copy where nothing is in upper case
}

// rules sort requests.
type rules struct {
	exempt     []string
	classes    []Condition
	classOf    []int
	priorities []Condition
	priorityOf []priority
}

// rules compiles the handler's conditions. The settings are checked.
func (c *Config) rules(s *settings) (*rules, error) {
	k := &rules{exempt: defaultExempt}
	if c.Exempt != nil {
		if err := checkPaths(c.Exempt); err != nil {
			return nil, fmt.Errorf("exempt: %w", err)
		}
		k.exempt = lowered(c.Exempt)
	}
	for _, r := range c.Classes {
		if err := r.check(); err != nil {
			return nil, fmt.Errorf("class %s: %w", r.Name, err)
		}
		k.classes, k.classOf = append(k.classes, r.compiled()), append(k.classOf, s.classIndex(r.Name))
	}
	for _, r := range c.Priorities {
		if err := r.check(); err != nil {
			return nil, fmt.Errorf("priority %s: %w", r.Priority, err)
		}
		p, _ := priorityOf(r.Priority)
		k.priorities, k.priorityOf = append(k.priorities, r.compiled()), append(k.priorityOf, p)
	}
	return k, nil
}

// exempts says whether the request passes uncounted.
func (k *rules) exempts(r *request) bool { return !r.odd && anyPath(k.exempt, r.path) }

// sort is the index of the request's class, and its priority.
func (k *rules) sort(r *request) (class int, p priority) {
	for i := range k.classes {
		if k.classes[i].fits(r) {
			class = k.classOf[i]
			break
		}
	}
	for i := range k.priorities {
		c := &k.priorities[i]
		if k.priorityOf[i] == high && r.odd && len(c.Path) > 0 {
			continue
		}
		if c.fits(r) {
			return class, k.priorityOf[i]
		}
	}
	return class, normal
}
