package accesslog

import (
	"net/http"
	"net/url"
	"strings"
)

// secretNames are parameters whose values are secrets wherever they stand, in lower case: signed URLs of
// the object stores, and tokens.
var secretNames = map[string]bool{
	"x-amz-signature": true, "x-amz-credential": true, "x-amz-security-token": true, "awsaccesskeyid": true,
	"x-goog-signature": true, "x-goog-credential": true, "signature": true, "sig": true,
	"token": true, "access_token": true, "id_token": true, "refresh_token": true, "lock_token": true, "auth_token": true, "jwt": true,
	"api_key": true, "apikey": true, "client_secret": true, "password": true, "secret": true,
}

// longest is the length of the longest secret name with all of its signs escaped.
const longest = 3 * len("x-amz-security-token")

// HasSecret says whether a raw query has a parameter whose value is a secret.
func HasSecret(query string) bool {
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		name, _, _ := strings.Cut(pair, "=")
		if isSecret(name) {
			return true
		}
	}
	return false
}

// Secret says whether the request's query, or that of the page it came from, has a secret.
func Secret(r *http.Request) bool {
	if HasSecret(r.URL.RawQuery) {
		return true
	}
	for _, referer := range r.Header["Referer"] {
		if _, query, found := strings.Cut(referer, "?"); found && HasSecret(query) {
			return true
		}
	}
	return false
}

// hide is the URI with REDACTED in the place of secrets in its query.
func hide(uri string) string {
	path, query, found := strings.Cut(uri, "?")
	if !found {
		return uri
	}
	pairs := strings.Split(query, "&")
	for i, pair := range pairs {
		if name, _, _ := strings.Cut(pair, "="); isSecret(name) {
			pairs[i] = name + "=REDACTED"
		}
	}
	return path + "?" + strings.Join(pairs, "&")
}

func isSecret(name string) bool {
	if len(name) < 3 || len(name) > longest {
		return false
	}
	if strings.IndexByte(name, '%') >= 0 {
		decoded, err := url.QueryUnescape(name)
		if err != nil {
			return false
		}
		name = decoded
	}
	switch name[len(name)-1] | 0x20 { // how the names end
	case 'e', 'l', 'n', 'd', 'g', 'y', 't':
		return secretNames[strings.ToLower(name)]
	}
	return false
}
