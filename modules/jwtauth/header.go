package jwtauth

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/gatehouse-proxy/gatehouse/internal/service"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/frontdoor"
)

// maxClaimHeader is the greatest length of one claim header's value: what nginx and Gunicorn take of one field.
const maxClaimHeader = 8000

// claimHeaders are the headers that carry claims, names in canonical form.
type claimHeaders []ClaimHeader

func canonical(headers []ClaimHeader) claimHeaders {
	c := slices.Clone(headers)
	for i := range c {
		c[i].Header = http.CanonicalHeaderKey(c[i].Header)
	}
	return c
}

// clear deletes what the client sent under our names. A name in Connection goes too: a proxy would
// take the header for one of the connection's own and drop it before the app sees it.
func (c claimHeaders) clear(h http.Header) {
	if len(c) == 0 {
		return
	}
	for i := range c {
		delete(h, c[i].Header)
	}
	c.clearTwins(h)
	if connection := h["Connection"]; len(connection) > 0 {
		h["Connection"] = c.without(connection)
	}
}

// clearTwins deletes headers that are ours but for other signs in the place of hyphens: apps of the CGI
// kind cannot tell them apart.
func (c claimHeaders) clearTwins(h http.Header) {
	for name := range h {
		if usual(name) {
			continue
		}
		twin := twinOf(name)
		if slices.ContainsFunc(c, func(ours ClaimHeader) bool { return ours.Header == twin }) {
			delete(h, name)
		}
	}
}

// usual says that a name has letters, digits and hyphens alone.
func usual(name string) bool {
	for i := range len(name) {
		if c := name[i]; c != '-' && (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') {
			return false
		}
	}
	return true
}

// twinOf is the header that an app may take this one for.
func twinOf(name string) string {
	return http.CanonicalHeaderKey(strings.Map(func(c rune) rune {
		if c < utf8.RuneSelf && !usual(string(c)) {
			return '-'
		}
		return c
	}, name))
}

// clearTrailer does the same for the trailers, which come when the body has been read.
func (c claimHeaders) clearTrailer(r *http.Request) {
	if len(c) == 0 || len(r.Trailer) == 0 && len(r.TransferEncoding) == 0 || r.Body == nil {
		return
	}
	drop := func() {
		for i := range c {
			delete(r.Trailer, c[i].Header)
		}
		c.clearTwins(r.Trailer)
	}
	drop()
	r.Body = frontdoor.AfterBody(r.Body, drop)
}

func (c claimHeaders) without(connection []string) []string {
	var keep []string
	for _, line := range connection {
		for option := range strings.SplitSeq(line, ",") {
			option = strings.TrimSpace(option)
			name := http.CanonicalHeaderKey(option)
			if !slices.ContainsFunc(c, func(ours ClaimHeader) bool { return ours.Header == name }) {
				keep = append(keep, option)
			}
		}
	}
	return keep
}

// field is a header with its value.
type field struct{ name, value string }

// fields are the headers for these claims.
// A claim that does not fit is a refusal, or left out.
func (c claimHeaders) fields(from *claims, subject string, drop bool) ([]field, error) {
	var fields []field
	for _, ch := range c {
		if ch.Claim == "sub" && subject != "" {
			fields = append(fields, field{ch.Header, percentEncode(subject, false)}) // in the cache it shares the bytes
			continue
		}
		v := from.value(ch.Claim)
		if v == nil {
			continue
		}
		s := headerValue(v)
		if len(s) > maxClaimHeader {
			if drop {
				continue
			}
			return nil, invalid(invalidClaims, "The claim "+ch.Claim+" of the token is too large for the header "+ch.Header+": `claim_too_large drop` would leave it out.")
		}
		fields = append(fields, field{ch.Header, s})
	}
	return fields, nil
}

// headerValue encodes a claim by the rules of ClaimHeader.
func headerValue(v any) string {
	if s, ok := text(v); ok {
		return percentEncode(s, false)
	}
	if array, ok := v.([]any); ok {
		if s, ok := joined(array); ok {
			return s
		}
	}
	b, _ := json.Marshal(v) //nolint:errchkjson // it came from JSON
	return base64.RawURLEncoding.EncodeToString(b)
}

func joined(array []any) (string, bool) {
	parts := make([]string, len(array))
	for i, e := range array {
		s, ok := text(e)
		if !ok {
			return "", false
		}
		parts[i] = percentEncode(s, true)
	}
	return strings.Join(parts, ","), true
}

// percentEncode makes s a header value that decodes to s and to nothing else.
func percentEncode(s string, comma bool) string {
	if comma {
		return service.EncodeHeader(s, ",")
	}
	return service.EncodeHeader(s, "")
}
