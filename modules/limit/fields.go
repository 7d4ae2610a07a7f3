package limit

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

// The fields of draft-ietf-httpapi-ratelimit-headers, as net/http writes their names.
const (
	policyField = "Ratelimit-Policy"
	limitField  = "Ratelimit"
)

// fields is what a directive says about its policies, formatted as far as it is constant.
type fields struct {
	policies []Policy
	policy   string   // the value of RateLimit-Policy
	names    []string // `"minute";r=`, one for each policy
}

func newFields(policies []Policy) fields {
	f := fields{policies: policies}
	var list []string
	for _, p := range policies {
		q, w := p.advertised()
		list = append(list, fmt.Sprintf("%q;q=%d;w=%d", p.Name, q, w))
		f.names = append(f.names, strconv.Quote(p.Name)+";r=")
	}
	f.policy = strings.Join(list, ", ")
	return f
}

// annotate tells the client where it stands. What another directive has said stays.
func (f *fields) annotate(h http.Header, v *Verdict) {
	policies, limits := h[policyField], h[limitField]
	if policies == nil && limits == nil {
		both := [2]string{f.policy, f.state(v)}
		h[policyField], h[limitField] = both[0:1:1], both[1:2:2]
		return
	}
	h[policyField] = append(policies[:len(policies):len(policies)], f.policy)
	h[limitField] = append(limits[:len(limits):len(limits)], f.state(v))
}

// state is the value of RateLimit: what remains of each policy, and when there is more.
func (f *fields) state(v *Verdict) string {
	var buf [256]byte
	b := buf[:0]
	for i, name := range f.names {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = append(b, name...)
		b = strconv.AppendInt(b, int64(v.Buckets[i].Remaining), 10)
		if v.Buckets[i].Next > 0 {
			b = append(b, ";t="...)
			b = strconv.AppendInt(b, int64(v.Buckets[i].Next), 10)
		}
	}
	return string(b)
}

// exceeded is the error of a refused request.
func (f *fields) exceeded(v *Verdict) *problem.Error {
	var violated []string
	worst := 0
	for i, p := range f.policies {
		if v.Buckets[i].Wait == 0 {
			continue
		}
		violated = append(violated, p.Name)
		if v.Buckets[i].Wait > v.Buckets[worst].Wait {
			worst = i
		}
	}
	p := f.policies[worst]
	e := problem.New(problem.QuotaExceeded, "The policy %s allows %d requests per %s and they are used up, try again in %s.",
		p.Name, p.Quota, short(p.Window.Std()), plural(v.Wait))
	e.Extra = map[string]any{"violated-policies": violated}
	e.RetryAfter = time.Duration(v.Wait) * time.Second
	return e
}

func plural(seconds int) string {
	if seconds == 1 {
		return "1 second"
	}
	return strconv.Itoa(seconds) + " seconds"
}
