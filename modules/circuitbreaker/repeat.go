package circuitbreaker

import (
	"context"
	"maps"
	"net/http"
	"net/url"
	"time"
)

// attemptField numbers the repeats of a request for the app: 2 is the first of them.
const attemptField = "Gatehouse-Attempt"

const (
	firstPause = 50 * time.Millisecond
	maxPause   = time.Second
)

// pause is how long to wait before the attempt after the n-th: at random, so that requests which have
// failed together do not come back together, up to a time that doubles.
func pause(n int, random float64) time.Duration {
	longest := firstPause
	for range n - 1 {
		longest = min(2*longest, maxPause)
	}
	return time.Duration(random * float64(longest))
}

// wait is false if the client leaves first.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// copyOf is what handlers change of a request and of the header of its response. Caddy's placeholders
// read from the request itself, so that it is put back and not exchanged for a copy.
type copyOf struct {
	method, host, uri string
	url               url.URL
	header, response  http.Header
	groups            map[string]struct{}
}

// groups are those routes of Caddy's that have been taken already, of which a request takes one each.
func remember(r *http.Request, response http.Header, groups map[string]struct{}) copyOf {
	return copyOf{r.Method, r.Host, r.RequestURI, *r.URL, r.Header.Clone(), response.Clone(), maps.Clone(groups)}
}

// restore puts everything back. The copy stays good for another time.
func (c *copyOf) restore(r *http.Request, response http.Header, groups map[string]struct{}) {
	r.Method, r.Host, r.RequestURI = c.method, c.host, c.uri
	*r.URL = c.url
	put(r.Header, c.header.Clone())
	put(response, c.response.Clone())
	clear(groups)
	maps.Copy(groups, c.groups)
}

func put(to, from http.Header) {
	clear(to)
	maps.Copy(to, from)
}
