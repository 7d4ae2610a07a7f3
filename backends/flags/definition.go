package flags

import (
	"encoding/json"
	"strconv"
	"unicode/utf8"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/httpapi"
	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

const (
	maxKey     = 128     // bytes of a flag's key
	maxUser    = 1024    // bytes of one entry of a list
	maxEntries = 10_000  // entries of one list
	maxBody    = 1 << 20 // bytes of a request
)

// Definition is what a flag says, in the format in which it is stored and sent.
type Definition struct {
	// Enabled is the main switch; false is off for everybody. Required.
	Enabled bool `json:"enabled"`
	// Percentage of users for whom the flag is on, a whole number from 0 to 100. Default: 0.
	Percentage int `json:"percentage"`
	// AllowList are users for whom the flag is on at any percentage. Default: none.
	AllowList []string `json:"allowList"`
	// DenyList are users for whom the flag is off; it wins over AllowList. Default: none.
	DenyList []string `json:"denyList"`
}

// ValidKey says whether s can be a flag's key: 1 to 128 lower-case letters, digits, dots,
// underscores and hyphens, the first of them a letter or a digit.
func ValidKey(s string) bool {
	if s == "" || len(s) > maxKey {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
		case i > 0 && (c == '.' || c == '_' || c == '-'):
		default:
			return false
		}
	}
	return true
}

func checkKey(s string) error {
	if !ValidKey(s) {
		return problem.New(problem.InvalidRequest, "The flag's key must be 1 to %d of a-z, 0-9, '.', '_' and '-', beginning with a letter or a digit.", maxKey)
	}
	return nil
}

// ParseDefinition reads a definition as a client sends it. Its errors are invalid-request problems.
func ParseDefinition(b []byte) (Definition, error) {
	if !utf8.Valid(b) {
		return Definition{}, problem.New(problem.InvalidRequest, "The body is not valid UTF-8.")
	}
	var body struct {
		Enabled    *bool           `json:"enabled"`
		Percentage json.RawMessage `json:"percentage"`
		AllowList  []string        `json:"allowList"`
		DenyList   []string        `json:"denyList"`
	}
	if err := httpapi.UnmarshalStrict(b, &body); err != nil {
		return Definition{}, err
	}
	if body.Enabled == nil {
		return Definition{}, problem.New(problem.InvalidRequest, "enabled is required, true or false.")
	}
	d := Definition{Enabled: *body.Enabled, AllowList: orEmpty(body.AllowList), DenyList: orEmpty(body.DenyList)}
	if body.Percentage != nil {
		p, err := strconv.Atoi(string(body.Percentage))
		if err != nil || p < 0 || p > 100 {
			return Definition{}, problem.New(problem.InvalidRequest, "percentage must be a whole number from 0 to 100.")
		}
		d.Percentage = p
	}
	if err := checkList("allowList", d.AllowList); err != nil {
		return Definition{}, err
	}
	return d, checkList("denyList", d.DenyList)
}

func checkList(name string, users []string) error {
	if len(users) > maxEntries {
		return problem.New(problem.InvalidRequest, "%s must not have more than %d entries, not %d.", name, maxEntries, len(users))
	}
	for i, u := range users {
		if u == "" || len(u) > maxUser {
			return problem.New(problem.InvalidRequest, "%s: entry %d must be a user of 1 to %d bytes.", name, i+1, maxUser)
		}
	}
	return nil
}

func orEmpty(users []string) []string {
	if users == nil {
		return []string{}
	}
	return users
}
