package httpcache

import (
	"net/http"
	"slices"
	"strings"

	"github.com/gatehouse-proxy/gatehouse/backends/cache"
)

// unkeyed are request fields that some apps let decide what they answer although they are no part of
// the URL. A request that carries one is not for a cache: it would store the sender's version for all.
var unkeyed = []string{
	"X-Http-Method-Override", "X-Http-Method", "X-Method-Override", "X-Original-Url", "X-Rewrite-Url",
	"X-Forwarded-Prefix", "X-Forwarded-Scheme", "X-Forwarded-Port", "X-Forwarded-Server", "X-Host", "X-Original-Host",
	"X-Forwarded-Ssl", "X-Forwarded-Protocol", "X-Forwarded-Uri", "X-Forwarded-Path", "Front-End-Https",
}

// upgrades says whether the request wants another protocol on its connection.
func upgrades(r *http.Request) bool { return len(r.Header["Upgrade"]) > 0 }

// safe says whether the method promises to change nothing (RFC 9110 section 9.2.1). An unknown one does not.
func safe(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return false
}

// mayUse says whether a GET or HEAD request may be answered from the cache, and its response be
// kept. identified says that the gateway knows who asks; trusted, that a trusted proxy sent it.
func mayUse(r *http.Request, identified, trusted bool) bool {
	h := r.Header
	switch {
	case identified, len(h["Authorization"]) > 0, len(h["Proxy-Authorization"]) > 0:
		return false // what one identity sees is nobody else's
	case r.TLS != nil && len(r.TLS.PeerCertificates) > 0:
		return false
	case r.ContentLength != 0, len(r.TransferEncoding) > 0:
		return false
	case len(h["Range"]) > 0, len(h["If-Match"]) > 0, len(h["If-Unmodified-Since"]) > 0:
		return false
	case incremental(h), strings.Contains(h.Get("Accept"), "text/event-stream"):
		return false
	case !trusted && len(h["Forwarded"]) > 0:
		return false
	case len(h["Cache-Control"]) > 0 && parseControl(h["Cache-Control"]).noStore:
		return false
	}
	for _, name := range unkeyed {
		if len(h[name]) > 0 {
			return false
		}
	}
	return !namesFields(h["Connection"])
}

// namesFields says whether Connection names fields, which go no further than here: the app would answer
// another request than the one that its answer is kept for.
func namesFields(lines []string) bool {
	for _, line := range lines {
		for option := range strings.SplitSeq(line, ",") {
			switch strings.ToLower(strings.Trim(option, " \t")) {
			case "", "close", "keep-alive":
			default:
				return true
			}
		}
	}
	return false
}

// incremental says that a message must be passed on as it comes (RFC 10036).
func incremental(h http.Header) bool {
	v := strings.Trim(h.Get("Incremental"), " \t")
	return v == "?1" || strings.HasPrefix(v, "?1;")
}

// cacheable are the final statuses that are kept if they say for how long.
var cacheable = []int{200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501}

// storable says whether a response to a request that mayUse may be kept, as far as anything but
// its freshness and its size decide. asked are the request's fields.
func storable(method string, asked http.Header, status int, h http.Header, c control) bool {
	switch {
	case method != http.MethodGet, !slices.Contains(cacheable, status):
		return false
	case c.noStore, c.noCache, c.private, targetedForbids(h):
		return false
	case len(h["Set-Cookie"]) > 0, len(h["Content-Range"]) > 0, len(h["Trailer"]) > 0, len(h["Upgrade"]) > 0:
		return false
	case incremental(h), strings.HasPrefix(strings.ToLower(h.Get("Content-Type")), "text/event-stream"):
		return false
	case h.Get("X-Accel-Buffering") == "no":
		return false
	case (len(asked["Cookie"]) > 0 || len(asked["X-Api-Key"]) > 0) && !c.public && !c.sMaxAge.set:
		return false // perhaps for this client alone, unless the response says that it is for all
	}
	names, ok := parseVary(h["Vary"])
	if !ok {
		return false
	}
	// An app that copies Origin into its answer without saying so in Vary.
	allowed := h.Get("Access-Control-Allow-Origin")
	return allowed == "" || allowed == "*" || len(asked["Origin"]) == 0 || slices.Contains(names, "Origin")
}

// targetedForbids says whether a field for caches like this one asks it not to keep the response. It
// is read like Cache-Control, so that one that is malformed rather forbids too much.
func targetedForbids(h http.Header) bool {
	for _, name := range []string{"Cdn-Cache-Control", "Surrogate-Control"} {
		if lines := h[name]; len(lines) > 0 {
			if c := parseControl(lines); c.noStore || c.noCache || c.private {
				return true
			}
		}
	}
	return false
}

// neverStored says whether a response field is good for one exchange or one connection alone.
func neverStored(name string) bool {
	switch name {
	case "Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authentication-Info", "Proxy-Connection", "Te", "Trailer",
		"Transfer-Encoding", "Upgrade", "Set-Cookie", "Set-Cookie2", "Retry-After", "Age", "Content-Length", "Ratelimit", "Ratelimit-Policy":
		return true
	}
	return strings.HasPrefix(name, "Ratelimit-") || strings.HasPrefix(name, "X-Ratelimit-") || strings.HasPrefix(name, http.TrailerPrefix)
}

// parseTags reads the lines of a field that lists tags, separated by commas or spaces. ok is false
// if one of them cannot be a tag or there are too many: such a response could not be invalidated.
func parseTags(tags, lines []string) (_ []string, ok bool) {
	for _, line := range lines {
		for tag := range strings.FieldsFuncSeq(line, func(c rune) bool { return c == ',' || c == ' ' || c == '\t' }) {
			if !cache.ValidTag(tag) || len(tags) >= cache.MaxTags {
				return nil, false
			}
			tags = append(tags, tag)
		}
	}
	return tags, true
}
