package locks

import (
	"net/http"
	"unicode"
	"unicode/utf8"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

// maxName is the longest name in bytes.
const maxName = 256

// ValidName says whether s can be a lock's name: 1 to 256 bytes of UTF-8 whose characters are all
// printable. Among white space, that is the plain space only.
func ValidName(s string) bool {
	if s == "" || len(s) > maxName || !utf8.ValidString(s) {
		return false
	}
	for _, c := range s {
		if !unicode.IsPrint(c) {
			return false
		}
	}
	return true
}

func nameOf(r *http.Request) (string, error) {
	name := r.PathValue("name")
	if !ValidName(name) {
		return "", problem.New(problem.InvalidRequest, "The lock's name must be 1 to %d bytes of printable UTF-8.", maxName)
	}
	return name, nil
}
