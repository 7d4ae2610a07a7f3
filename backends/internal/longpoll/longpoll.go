// Package longpoll is what requests that wait for something to happen have in common: they give their place
// back while they wait, and one caller may have so many of them at once.
package longpoll

import (
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

const (
	// perCaller is how many requests of one caller may wait at once, perService of a service or an operator,
	// behind whom are many workers, or of who did not come through the gateway.
	perCaller, perService = 100, 2000
	// retryAfter is the Retry-After of what is one too many.
	retryAfter = time.Second
)

// Bound counts the requests that wait, by caller. The zero value is ready to use.
type Bound struct {
	mu      sync.Mutex
	waiting map[string]int
}

// Begin notes that the request waits from now on. leave must be called when it does so no more, and before
// the response begins. The error is the problem quota-exceeded, 429.
func (b *Bound) Begin(w http.ResponseWriter, r *http.Request, c service.Caller) (leave func(), err error) {
	who, known := callerOf(r, c)
	most := perCaller
	if c.Any() || !known {
		most = perService
	}
	b.mu.Lock()
	over := b.waiting[who] >= most
	if !over {
		if b.waiting == nil {
			b.waiting = map[string]int{}
		}
		b.waiting[who]++
	}
	b.mu.Unlock()
	if over {
		e := problem.New(problem.QuotaExceeded, "%d requests of this caller wait already: end some, or ask without wait.", most)
		e.RetryAfter = retryAfter
		return nil, e
	}
	resume := service.Park(w)
	return sync.OnceFunc(func() {
		resume()
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.waiting[who]--; b.waiting[who] == 0 {
			delete(b.waiting, who)
		}
	}), nil
}

// callerOf names who asks: the owner, the subject, or else the client's address. It is not known for a
// request that came past the gateway, whose address may be that of a proxy.
func callerOf(r *http.Request, c service.Caller) (who string, known bool) {
	switch {
	case c.Owner != "":
		return "owner " + c.Owner, true
	case c.Subject != "":
		return "subject " + c.Subject, true
	}
	if ip := r.Header.Get(service.ClientIPHeader); ip != "" {
		return "address " + ip, true
	}
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	return "peer " + host, false
}
