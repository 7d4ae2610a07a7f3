// Package limit is the directives `limit` and `quota`: how many requests a client may make, before
// authentication by its address and after it by its identity. Both are one engine, which counts in
// process with the token buckets of golang.org/x/time/rate.
package limit

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/gatehouse-proxy/gatehouse/modules/internal/refuse"
)

// defaultMaxKeys is the cap on the keys of one table, about 200 MB if all are in use at once.
const defaultMaxKeys = 1 << 20

// clientIP is the address that Caddy has found: the peer, or what a trusted proxy says of it.
const clientIP = "http.vars.client_ip"

// Engine is what `limit` and `quota` have in common. A request is allowed if every policy has room
// for it, and only then are they charged. All responses carry RateLimit-Policy and RateLimit
// (draft-ietf-httpapi-ratelimit-headers); a refused request is answered 429 with Retry-After.
type Engine struct {
	// Zone tells the counters of one directive from those of another: handlers of the same kind
	// with the same zone, policies, key and cap share them. The Caddyfile numbers its directives:
	// "limit#1", "limit#2", "quota#1". Default "".
	Zone string `json:"zone,omitempty"`
	// Policies are the rates to keep, at least one and at most 8. Changing them starts new counters.
	Policies []Policy `json:"policies"`
	// By is the template of the key that is counted, with at most 8 placeholders. {http.vars.client_ip}
	// stands for the client's network: IPv6 addresses are grouped by /64. If any placeholder is empty,
	// as the identity of an anonymous client is, the request is counted by the client's network, apart
	// from all other keys. Default: {http.vars.client_ip} for limit, {http.auth.user.id} for quota.
	By string `json:"by,omitempty"`
	// MaxKeys is how many keys are remembered at most. Where it is reached, keys with nothing to
	// remember go first, then those not used for long. Default 0: 1,048,576.
	MaxKeys int `json:"max_keys,omitempty"`

	zone   *zone
	table  *Table
	parts  []part
	fields fields
	refuse *refuse.Refuser
}

// Limit counts requests per client, before anything costs. By default the client is its IP address.
type Limit struct{ Engine }

// Quota counts requests per identity, after authentication. By default that is {http.auth.user.id}.
type Quota struct{ Engine }

// zone is the identity of a table: all that decides what its numbers mean.
type zone struct {
	directive, name, policies, by string
	maxKeys                       int
}

// tables are the tables in use. A configuration that does not change a zone goes on with its table.
var tables = caddy.NewUsagePool()

// Destruct does nothing: requests in flight may still be counted, and then the table is garbage.
func (*Table) Destruct() error { return nil }

// Provision compiles the key and the header fields and takes hold of the counters.
func (l *Limit) Provision(ctx caddy.Context) error {
	return l.provision(ctx, "limit", "{"+clientIP+"}")
}

// Provision compiles the key and the header fields and takes hold of the counters.
func (q *Quota) Provision(ctx caddy.Context) error {
	return q.provision(ctx, "quota", "{http.auth.user.id}")
}

func (e *Engine) provision(ctx caddy.Context, directive, by string) error {
	e.refuse = refuse.New(ctx.Logger())
	policies := make([]Policy, len(e.Policies))
	for i, p := range e.Policies {
		if p.Name == "" {
			p.Name = directive
		}
		p.Burst = p.burst()
		policies[i] = p
	}
	if err := checkAll(policies); err != nil {
		return err
	}
	if e.By != "" {
		by = e.By
	}
	var err error
	if e.parts, err = compile(by); err != nil {
		return err
	}
	maxKeys := e.MaxKeys
	if maxKeys < 0 {
		return fmt.Errorf("max_keys must be at least 1, not %d", maxKeys)
	}
	if maxKeys == 0 {
		maxKeys = defaultMaxKeys
	}
	e.fields = newFields(policies)
	return e.hold(zone{directive: directive, name: e.Zone, by: by, maxKeys: maxKeys}, policies)
}

func (e *Engine) hold(z zone, policies []Policy) error {
	canonical, err := json.Marshal(policies)
	if err != nil {
		return fmt.Errorf("encoding the policies: %w", err)
	}
	z.policies = string(canonical)
	table, _, err := tables.LoadOrNew(z, func() (caddy.Destructor, error) {
		return NewTable(policies, z.maxKeys), nil
	})
	if err != nil {
		return err
	}
	e.table, e.zone = table.(*Table), &z
	return nil
}

// Cleanup gives back what Provision took hold of. The handler stays usable for requests in flight.
func (e *Engine) Cleanup() error {
	if e.zone == nil {
		return nil
	}
	_, err := tables.Delete(*e.zone)
	e.zone = nil
	return err
}

// ServeHTTP counts the request and refuses it if it is one too many.
func (e *Engine) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	verdict := e.table.Take(time.Now(), e.identify(r), 1)
	e.fields.annotate(w.Header(), &verdict)
	if !verdict.Allowed {
		return e.refuse.Error(w, r, e.fields.exceeded(&verdict))
	}
	return next.ServeHTTP(w, r)
}

// identify is the key of the request.
func (e *Engine) identify(r *http.Request) Key {
	repl, _ := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	var buf [maxParts]Key
	keys := buf[:0]
	for i := range e.parts {
		p := &e.parts[i]
		value := p.value(r, repl)
		switch {
		case value == "":
			ip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
			return byAddress.ofAddress(ip)
		case p.address:
			keys = append(keys, byTemplate.ofAddress(value))
		default:
			keys = append(keys, byTemplate.of(value))
		}
	}
	return byTemplate.join(keys)
}

// part is one placeholder of the key.
type part struct {
	name    string
	header  string // the canonical header field whose value is meant, if it is one
	address bool   // the value is an IP address
}

const headerPrefix = "http.request.header."

func compile(template string) ([]part, error) {
	names, err := parseTemplate(template)
	if err != nil {
		return nil, err
	}
	parts := make([]part, len(names))
	for i, name := range names {
		if name == "client_ip" {
			name = clientIP
		}
		p := part{name: name, address: name == clientIP || name == "http.request.remote.host"}
		if field, ok := strings.CutPrefix(name, headerPrefix); ok {
			p.header = http.CanonicalHeaderKey(field)
		}
		if p.header == "Host" {
			return nil, fmt.Errorf("by: {%s} is always empty, write {http.request.host}", name)
		}
		parts[i] = p
	}
	return parts, nil
}

// value is what the placeholder stands for, taken as it is: placeholders in it are not expanded.
func (p *part) value(r *http.Request, repl *caddy.Replacer) string {
	switch {
	case p.name == clientIP:
		ip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
		return ip
	case p.header != "":
		if values := r.Header[p.header]; len(values) == 1 {
			return values[0]
		}
		return strings.Join(r.Header[p.header], ",")
	case repl == nil:
		return ""
	}
	value, _ := repl.GetString(p.name)
	return value
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Limit)(nil)
	_ caddy.CleanerUpper          = (*Limit)(nil)
	_ caddyhttp.MiddlewareHandler = (*Limit)(nil)
	_ caddy.Provisioner           = (*Quota)(nil)
	_ caddy.CleanerUpper          = (*Quota)(nil)
	_ caddyhttp.MiddlewareHandler = (*Quota)(nil)
)
