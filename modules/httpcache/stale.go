package httpcache

import (
	"net/http"
	"strconv"
	"time"
)

// openGrace is how long a stale response may answer while a circuit_breaker keeps requests from the
// app: the cache is cut off from it (RFC 9111 section 4.2.4).
const openGrace = 5 * time.Minute

// grace is what a response says about its use when it is stale.
type grace struct {
	forbidden bool
	onError   seconds
}

// mustNotServeStale says whether a response forbids its use when it is stale (RFC 9111 sections 4.2.4 and
// 5.2.2.10), to all shared caches or to CDNs.
func mustNotServeStale(c control, h http.Header) bool {
	targeted := parseControl(h["Cdn-Cache-Control"])
	return c.revalidate || c.sMaxAge.set || targeted.revalidate || targeted.sMaxAge.set
}

// last is how long after its freshness a response may stand in for an app that fails, or that a
// circuit_breaker asks nothing (open). allowed is the option stale.
func (g grace) last(allowed *time.Duration, open bool) time.Duration {
	switch {
	case g.forbidden, allowed != nil && *allowed == 0:
		return 0
	case g.onError.set:
		return time.Duration(g.onError.n) * time.Second
	case allowed != nil:
		return *allowed
	case open:
		return openGrace
	}
	return 0
}

// fails says whether a status means that the app has failed (RFC 5861 section 4).
func fails(status int) bool {
	switch status {
	case http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// standIn is a stale response that is at hand while the app is asked for a new one.
type standIn struct {
	entry   *entry // nil for none
	allowed *time.Duration
}

// may says whether the response may be served at now.
func (s standIn) may(now time.Time, open bool) bool {
	return s.entry != nil && now.Before(s.entry.until.Add(s.entry.grace.last(s.allowed, open)))
}

// status is what Cache-Status says of it (RFC 9211): the app was not asked, or it has failed, with an
// answer or without.
func (s standIn) status(answer int, open bool) string {
	switch {
	case open:
		return hit
	case answer == 0:
		return "gatehouse; fwd=stale"
	}
	return "gatehouse; fwd=stale; fwd-status=" + strconv.Itoa(answer)
}
