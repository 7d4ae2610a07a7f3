package limit

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/modules/limit/policy"
)

// The fields of draft-ietf-httpapi-ratelimit-headers, and their forerunners, as net/http writes them.
const (
	policyField = "Ratelimit-Policy"
	limitField  = "Ratelimit"
	exposeField = "Access-Control-Expose-Headers"
	// modeField says how a request was counted, where that is asked for.
	modeField = "Gatehouse-Limit-Mode"
)

// exposed are the fields that scripts of other origins may read (Fetch, CORS-safelisting).
var exposed = "RateLimit, RateLimit-Policy, Retry-After"

// fields is what a directive says about its policies, formatted as far as it is constant.
type fields struct {
	policies []policy.Policy
	policy   string   // the value of RateLimit-Policy
	names    []string // `"minute";r=`, one for each policy
	flights  string   // the same for in_flight, if it is set
	joined   atomic.Pointer[joined]
}

func (f *fields) init(policies []policy.Policy, inFlight *policy.Policy) {
	f.policies = policies
	var list []string
	for _, p := range policies {
		q, w := p.Advertised()
		list = append(list, fmt.Sprintf("%q;q=%d;w=%d", p.Name, q, w))
		f.names = append(f.names, strconv.Quote(p.Name)+";r=")
	}
	if inFlight != nil {
		list = append(list, fmt.Sprintf("%q;q=%d;qu=\"concurrent-requests\"", inFlight.Name, inFlight.Quota))
		f.flights = strconv.Quote(inFlight.Name) + ";r="
	}
	f.policy = strings.Join(list, ", ")
}

// annotate tells the client where it stands. What another directive has said stays, in the same lists.
func (f *fields) annotate(h http.Header, v *policy.Verdict, places int64) {
	var buf [256]byte
	b := buf[:0]
	both := [2]string{f.policy, ""}
	if said := h[policyField]; len(said) > 0 {
		both[0] = f.after(strings.Join(said, ", "))
	}
	for _, said := range h[limitField] {
		b = append(b, said...)
		b = append(b, ", "...)
	}
	both[1] = string(f.state(b, v, places))
	h[policyField], h[limitField] = both[0:1:1], both[1:2:2]
}

// joined is a list of policies that another directive has begun, with ours behind it.
type joined struct{ begun, list string }

// after is the list of policies with ours behind it.
func (f *fields) after(begun string) string {
	if j := f.joined.Load(); j != nil && j.begun == begun {
		return j.list
	}
	j := &joined{begun, begun + ", " + f.policy}
	f.joined.Store(j)
	return j.list
}

// state appends what remains of each policy, and when there is more.
func (f *fields) state(b []byte, v *policy.Verdict, places int64) []byte {
	for i, name := range f.names {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = append(b, name...)
		b = strconv.AppendInt(b, v.Answers[i].Remaining, 10)
		if next := v.Answers[i].Next; next > 0 {
			b = append(b, ";t="...)
			b = strconv.AppendInt(b, seconds(next), 10)
		}
	}
	if f.flights != "" {
		if len(f.names) > 0 {
			b = append(b, ", "...)
		}
		b = append(b, f.flights...)
		b = strconv.AppendInt(b, places, 10)
	}
	return b
}

// legacy sets the X-RateLimit fields, which describe the policy that is nearest to its end. Reset is
// when that policy has one more, in seconds from now or since the Unix epoch.
func (f *fields) legacy(h http.Header, v *policy.Verdict, now int64, unix bool) {
	if len(f.policies) == 0 {
		return
	}
	nearest, share := 0, math.Inf(1)
	for i, p := range f.policies {
		left := float64(v.Answers[i].Remaining) / float64(p.Size())
		if v.Answers[i].Violated {
			left = -1 - v.Answers[i].Wait.Seconds()
		}
		if left < share {
			nearest, share = i, left
		}
	}
	a := v.Answers[nearest]
	reset := seconds(max(a.Next, a.Wait))
	if unix {
		reset = int64(math.Ceil(float64(now)/1e9 + max(a.Next, a.Wait).Seconds()))
	}
	h["X-Ratelimit-Limit"] = []string{strconv.Itoa(f.policies[nearest].Size())}
	h["X-Ratelimit-Remaining"] = []string{strconv.FormatInt(a.Remaining, 10)}
	h["X-Ratelimit-Reset"] = []string{strconv.FormatInt(reset, 10)}
}

// seconds rounds up: a client that waits so long has waited enough. It is 0 only for 0.
func seconds(d time.Duration) int64 {
	return int64((d + time.Second - 1) / time.Second)
}

// refusal is what a refused request is told.
type refusal struct {
	retryAfter int64 // seconds; 0 where waiting does not help
	detail     string
	violated   []string
}

// violated names the policies that have no room.
func (f *fields) violated(v *policy.Verdict) string {
	var list []string
	for i, p := range f.policies {
		if v.Answers[i].Violated {
			list = append(list, p.Name)
		}
	}
	return strings.Join(list, ",")
}

// exceeded is the refusal by rates. jitter spreads the clients over up to that share of the wait more.
func (f *fields) exceeded(v *policy.Verdict, cost int64, jitter float64) refusal {
	r := refusal{violated: make([]string, 0, 1)}
	worst := -1
	for i, p := range f.policies {
		a := v.Answers[i]
		if !a.Violated {
			continue
		}
		r.violated = append(r.violated, p.Name)
		if worst < 0 || a.Wait > v.Answers[worst].Wait {
			worst = i
		}
	}
	p := f.policies[worst]
	if v.Never {
		r.detail = fmt.Sprintf("The request costs %d, which is more than is ever allowed at once.", cost)
		return r
	}
	r.retryAfter = max(1, seconds(v.Wait+time.Duration(rand.Float64()*jitter*float64(v.Wait))))
	r.detail = "The policy " + p.Name + " allows " + strconv.Itoa(p.Quota) + " requests per " + policy.Short(p.Window.Std()) +
		" and they are used up, try again in " + plural(r.retryAfter) + "."
	return r
}

// tooMany is the refusal by in_flight.
func tooMany(name string, most int, jitter float64) refusal {
	wait := max(1, seconds(time.Duration((1+rand.Float64()*jitter)*float64(time.Second))))
	return refusal{
		retryAfter: wait, violated: []string{name},
		detail: "At most " + strconv.Itoa(most) + " requests may be under way at once, try again when one of them is done.",
	}
}

// problem is the refusal as an error.
func (r *refusal) problem() *problem.Error {
	e := problem.New(problem.QuotaExceeded, "%s", r.detail)
	e.Extra = map[string]any{"violated-policies": r.violated}
	e.RetryAfter = time.Duration(r.retryAfter) * time.Second
	return e
}

// write answers with the refusal.
func (r *refusal) write(w http.ResponseWriter, head bool, instance string) {
	h := w.Header()
	body := r.body(instance)
	h["Content-Type"], h["Cache-Control"] = problemType, noStore
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	if r.retryAfter > 0 {
		h["Retry-After"] = []string{strconv.FormatInt(r.retryAfter, 10)}
	}
	w.WriteHeader(http.StatusTooManyRequests)
	if !head {
		_, _ = w.Write(body) //nolint:gosec // JSON of a policy's name and numbers, and of the request's id
	}
}

var (
	problemType = []string{"application/problem+json"}
	noStore     = []string{"no-store"}
)

// body is the document of problem, without a detour: a flood gets thousands of them a second.
func (r *refusal) body(instance string) []byte {
	b := make([]byte, 0, 512)
	b = append(b, refusalStart...)
	for i, name := range r.violated {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendQuote(b, name) // letters, digits, - and _
	}
	b = append(b, `],"detail":"`...)
	b = append(b, r.detail...) // of letters, digits and punctuation that JSON need not escape
	b = append(b, `","instance":"`...)
	b = append(b, instance...)
	return append(b, "\"}\n"...)
}

var refusalStart = func() string {
	start, err := json.Marshal(struct {
		Type   string `json:"type"`
		Title  string `json:"title"`
		Status int    `json:"status"`
	}{problem.QuotaExceeded.Type(), problem.QuotaExceeded.Title(), problem.QuotaExceeded.Status()})
	if err != nil {
		panic(err)
	}
	return strings.TrimSuffix(string(start), "}") + `,"violated-policies":[`
}()

func plural(seconds int64) string {
	if seconds == 1 {
		return "1 second"
	}
	return strconv.FormatInt(seconds, 10) + " seconds"
}
