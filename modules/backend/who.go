package backend

import (
	"strings"

	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

const claims = "http.auth.user."

// who reads what the handlers before have found out about the caller. Of jwt_auth it asks for what a claim
// is, which {http.auth.user.*} does not tell: there the array [a, b] and the text "a,b" are the same.
type who struct {
	get func(placeholder string) (value string, known bool)
}

// claim is a claim of the verified token. Header says that it is encoded for one.
func (w who) claim(name string, header bool) string {
	value, known := w.get("http.jwt_auth.header." + name)
	switch {
	case known && header:
		return value
	case known:
		if strings.IndexByte(value, '%') < 0 {
			return value
		}
		return service.DecodeHeader(value)
	}
	value, _ = w.get(claims + name) // of another way to log in
	if header {
		return service.EncodeHeader(value, "")
	}
	return value
}

func (w who) roles() string {
	if roles, known := w.get("http.jwt_auth.roles"); known {
		return roles
	}
	return w.list("role", "roles", ",")
}

func (w who) scopes() string {
	if scopes, known := w.get("http.jwt_auth.scopes"); known {
		return scopes
	}
	return w.list("scope", "scp", " ")
}

// list joins two texts. Each is one word, whatever is in it.
func (w who) list(a, b, separator string) string {
	one, _ := w.get(claims + a)
	two, _ := w.get(claims + b)
	one, two = service.EncodeHeader(one, separator), service.EncodeHeader(two, separator)
	if one == "" || two == "" {
		return one + two
	}
	return one + separator + two
}

// placeholder is the value of a placeholder of the option owner.
func (w who) placeholder(name string) string {
	if claim, ok := strings.CutPrefix(name, claims); ok {
		return w.claim(claim, false)
	}
	value, _ := w.get(name)
	return value
}

// ambient reports whether the caller is known by something else than a token outside of cookies.
func (w who) ambient() bool {
	if cookie, _ := w.get("http.jwt_auth.cookie"); cookie == "true" {
		return true
	}
	token, _ := w.get("http.jwt_auth.authenticated")
	subject, _ := w.get(claims + "id")
	return token != "true" && subject != ""
}
