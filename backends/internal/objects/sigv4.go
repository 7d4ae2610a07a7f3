package objects

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/secret"
)

const (
	algorithm  = "AWS4-HMAC-SHA256"
	unsigned   = "UNSIGNED-PAYLOAD"
	timeFormat = "20060102T150405Z"
	// maxTTL is the longest life of a presigned URL that the protocol knows.
	maxTTL = 7 * 24 * time.Hour
	// maxSkew is how far the clock of whoever signed may be ahead of ours.
	maxSkew = 15 * time.Minute
	// maxQuery bounds the query of a signed request; ours have less than 4 KiB.
	maxQuery = 16 << 10
)

// Keys signs and verifies presigned URLs with AWS Signature Version 4 in the query.
type Keys struct {
	// AccessKey names the key; it is public.
	AccessKey string
	// Region is part of the signature's scope.
	Region string
	// Secrets are the secret keys: the newest signs, any verifies.
	Secrets *secret.Set
}

// Presign signs a request to u and returns the URL to use. header are the headers that must be sent
// with exactly these values; the host is always signed. ttl counts in whole seconds.
func (k Keys) Presign(now time.Time, method string, u *url.URL, header http.Header, ttl time.Duration) string {
	date := now.UTC().Format(timeFormat)
	names := []string{"host"}
	for name := range header {
		names = append(names, strings.ToLower(name))
	}
	slices.Sort(names)
	query := u.Query()
	query.Set("X-Amz-Algorithm", algorithm)
	query.Set("X-Amz-Credential", k.AccessKey+"/"+k.scope(date))
	query.Set("X-Amz-Date", date)
	query.Set("X-Amz-Expires", strconv.FormatInt(int64(ttl/time.Second), 10))
	query.Set("X-Amz-SignedHeaders", strings.Join(names, ";"))
	canonical := canonicalRequest(method, u.Path, query, names, func(name string) []string {
		if name == "host" {
			return []string{u.Host}
		}
		return header.Values(name)
	})
	signed := *u
	signed.RawPath = uriEncode(u.Path, true)
	newest := k.Secrets.Newest()
	newest.Used(now)
	signed.RawQuery = canonicalQuery(query) + "&X-Amz-Signature=" + k.sign(newest, date, canonical)
	return signed.String()
}

// Verify checks the signature of a presigned request. A request that is not one of ours, or whose
// time has not come or is over, is answered with the error. HEAD is also allowed by a signature
// for GET, which shows more.
func (k Keys) Verify(r *http.Request, now time.Time) *Error {
	if len(r.URL.RawQuery) > maxQuery {
		return queryError("The query is too long.")
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return queryError("The query cannot be read.")
	}
	p, e := readParams(query)
	if e != nil {
		return e
	}
	if p.accessKey != k.AccessKey {
		return &Error{http.StatusForbidden, "InvalidAccessKeyId", "The access key does not exist."}
	}
	if p.scope != k.scope(p.date) {
		return queryError("X-Amz-Credential has another region, service or date.")
	}
	if e = p.inTime(now); e != nil {
		return e
	}
	for name := range r.Header {
		if lower := strings.ToLower(name); strings.HasPrefix(lower, "x-amz-") && !slices.Contains(p.signedHeaders, lower) {
			return denied("There were headers present in the request which were not signed.")
		}
	}
	if payloadHash(r, query) != unsigned {
		return notImplemented("Only the payload hash UNSIGNED-PAYLOAD is implemented.")
	}
	query.Del("X-Amz-Signature")
	methods := []string{r.Method}
	if r.Method == http.MethodHead {
		methods = append(methods, http.MethodGet)
	}
	for _, method := range methods {
		canonical := canonicalRequest(method, r.URL.Path, query, p.signedHeaders, requestHeader(r))
		for _, version := range k.Secrets.Versions() {
			if hmac.Equal([]byte(k.sign(version, p.date, canonical)), []byte(p.signature)) {
				version.Used(now)
				return nil
			}
		}
	}
	return &Error{http.StatusForbidden, "SignatureDoesNotMatch",
		"The request signature we calculated does not match the signature you provided. Send the method, the URL and every signed header exactly as they were given."}
}

// params are the query parameters of a presigned request.
type params struct {
	accessKey, scope, date, signature string
	at                                time.Time
	expires                           time.Duration
	signedHeaders                     []string
}

func readParams(query url.Values) (*params, *Error) {
	if !query.Has("X-Amz-Algorithm") && !query.Has("X-Amz-Signature") {
		return nil, denied("The request is not signed. Use a presigned URL.")
	}
	for _, name := range []string{"Algorithm", "Credential", "Date", "Expires", "SignedHeaders", "Signature"} {
		if len(query["X-Amz-"+name]) != 1 {
			return nil, queryError("The query must have X-Amz-" + name + " exactly once.")
		}
	}
	if query.Get("X-Amz-Algorithm") != algorithm {
		return nil, queryError("X-Amz-Algorithm must be " + algorithm + ".")
	}
	p := &params{date: query.Get("X-Amz-Date"), signature: query.Get("X-Amz-Signature")}
	var err error
	if p.at, err = time.Parse(timeFormat, p.date); err != nil {
		return nil, queryError("X-Amz-Date must have the form " + timeFormat + ".")
	}
	seconds, err := strconv.Atoi(query.Get("X-Amz-Expires"))
	if err != nil || seconds < 1 || seconds > int(maxTTL/time.Second) {
		return nil, queryError("X-Amz-Expires must be a number of seconds from 1 to 604800.")
	}
	p.expires = time.Duration(seconds) * time.Second
	p.accessKey, p.scope, _ = strings.Cut(query.Get("X-Amz-Credential"), "/")
	p.signedHeaders = strings.Split(query.Get("X-Amz-SignedHeaders"), ";")
	if !slices.Contains(p.signedHeaders, "host") {
		return nil, queryError("X-Amz-SignedHeaders must have host.")
	}
	return p, nil
}

func (p *params) inTime(now time.Time) *Error {
	if p.at.Sub(now) > maxSkew {
		return denied("Request is not valid yet")
	}
	if now.After(p.at.Add(p.expires)) {
		return denied("Request has expired")
	}
	return nil
}

// payloadHash is what the signature says of the body's content.
func payloadHash(r *http.Request, query url.Values) string {
	if h := r.Header.Get("X-Amz-Content-Sha256"); h != "" {
		return h
	}
	if h := query.Get("X-Amz-Content-Sha256"); h != "" {
		return h
	}
	return unsigned
}

// requestHeader reads headers as the client sent them; Go keeps two of them outside of the map.
func requestHeader(r *http.Request) func(name string) []string {
	return func(name string) []string {
		switch name {
		case "host":
			return []string{r.Host}
		case "content-length":
			return []string{strconv.FormatInt(max(0, r.ContentLength), 10)}
		}
		return r.Header.Values(name)
	}
}

func (k Keys) scope(date string) string {
	return date[:8] + "/" + k.Region + "/s3/aws4_request"
}

func (k Keys) sign(v secret.Version, date, canonical string) string {
	hash := sha256.Sum256([]byte(canonical))
	key := append([]byte("AWS4"), v.Value.Reveal()...)
	for _, part := range []string{date[:8], k.Region, "s3", "aws4_request"} {
		key = mac(key, part)
	}
	return hex.EncodeToString(mac(key, algorithm+"\n"+date+"\n"+k.scope(date)+"\n"+hex.EncodeToString(hash[:])))
}

func mac(key []byte, message string) []byte {
	h := hmac.New(sha256.New, key)
	_, _ = h.Write([]byte(message))
	return h.Sum(nil)
}

// canonicalRequest is the text that is signed. names are the signed headers in the order of
// X-Amz-SignedHeaders; query is without the signature.
func canonicalRequest(method, path string, query url.Values, names []string, header func(name string) []string) string {
	var b strings.Builder
	b.WriteString(method + "\n" + uriEncode(path, true) + "\n" + canonicalQuery(query) + "\n")
	for _, name := range names {
		values := make([]string, 0, 1)
		for _, v := range header(name) {
			values = append(values, strings.Join(strings.Fields(v), " "))
		}
		b.WriteString(name + ":" + strings.Join(values, ",") + "\n")
	}
	b.WriteString("\n" + strings.Join(names, ";") + "\n" + unsigned)
	return b.String()
}

// canonicalQuery is the query with its encoded pairs in order.
func canonicalQuery(query url.Values) string {
	pairs := make([]string, 0, len(query))
	for name, values := range query {
		for _, v := range values {
			pairs = append(pairs, uriEncode(name, false)+"="+uriEncode(v, false))
		}
	}
	slices.Sort(pairs)
	return strings.Join(pairs, "&")
}

// uriEncode encodes everything but the unreserved characters of RFC 3986 and, in a path, slashes.
func uriEncode(s string, path bool) string {
	const upperHex = "0123456789ABCDEF"
	var b strings.Builder
	b.Grow(len(s))
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9',
			c == '-', c == '_', c == '.', c == '~', path && c == '/':
			b.WriteByte(c)
		default:
			b.WriteByte('%')
			b.WriteByte(upperHex[c>>4])
			b.WriteByte(upperHex[c&15])
		}
	}
	return b.String()
}
