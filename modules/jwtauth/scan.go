package jwtauth

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"unicode/utf8"
)

// maxDepth is how deep the values in a token may be nested.
const maxDepth = 64

// fewNames is how many names of an object are compared one by one.
const fewNames = 32

var errJSON = errors.New("it is not one JSON object in UTF-8 with each name once")

// member is a name of a JSON object with its value as it is written.
type member struct{ name, raw []byte }

// scan walks through JSON. It looks at the structure alone and leaves the values to whoever asks for
// one: what stands in a number or behind a backslash is checked there.
type scan struct {
	b []byte
	i int
}

// members reads the object that b is, in which no name comes twice, at any depth (RFC 7515 section 4,
// RFC 7519 section 4): another reader of the same token might take the other of the two. It appends to list.
func members(list []member, b []byte) ([]member, error) {
	s := scan{b: b}
	s.space()
	list, ok := s.object(list, 0)
	s.space()
	if !ok || s.i != len(b) || !utf8.Valid(b) {
		return nil, errJSON
	}
	return list, nil
}

func (s *scan) space() {
	for s.i < len(s.b) && (s.b[s.i] == ' ' || s.b[s.i] == '\t' || s.b[s.i] == '\n' || s.b[s.i] == '\r') {
		s.i++
	}
}

// take steps over c, which must come next.
func (s *scan) take(c byte) bool {
	if s.i >= len(s.b) || s.b[s.i] != c {
		return false
	}
	s.i++
	return true
}

func (s *scan) object(list []member, depth int) ([]member, bool) {
	if depth > maxDepth || !s.take('{') {
		return list, false
	}
	first := len(list)
	var names map[string]bool // of an object with many
	s.space()
	if s.take('}') {
		return list, true
	}
	for {
		s.space()
		from := s.i
		if !s.str() {
			return list, false
		}
		name, ok := plain(s.b[from:s.i])
		s.space()
		if !ok || !s.take(':') {
			return list, false
		}
		switch n := len(list) - first; {
		case n < fewNames:
			if named(list[first:], string(name)) >= 0 {
				return list, false
			}
		case names == nil:
			names = make(map[string]bool, 2*fewNames)
			for _, m := range list[first:] {
				names[string(m.name)] = true
			}
			fallthrough
		default:
			if names[string(name)] {
				return list, false
			}
			names[string(name)] = true
		}
		s.space()
		from = s.i
		if !s.value(depth + 1) {
			return list, false
		}
		list = append(list, member{name, s.b[from:s.i]})
		s.space()
		if s.take('}') {
			return list, true
		}
		if !s.take(',') {
			return list, false
		}
	}
}

func named(list []member, name string) int {
	for i := range list {
		if string(list[i].name) == name {
			return i
		}
	}
	return -1
}

func (s *scan) array(depth int) bool {
	if depth > maxDepth || !s.take('[') {
		return false
	}
	s.space()
	if s.take(']') {
		return true
	}
	for {
		s.space()
		if !s.value(depth + 1) {
			return false
		}
		s.space()
		if s.take(']') {
			return true
		}
		if !s.take(',') {
			return false
		}
	}
}

func (s *scan) value(depth int) bool {
	if s.i >= len(s.b) {
		return false
	}
	switch s.b[s.i] {
	case '"':
		return s.str()
	case '{':
		_, ok := s.object(nil, depth)
		return ok
	case '[':
		return s.array(depth)
	}
	from := s.i
	for s.i < len(s.b) && !delimiter(s.b[s.i]) {
		s.i++
	}
	switch string(s.b[from:s.i]) {
	case "true", "false", "null":
		return true
	}
	return number(s.b[from:s.i])
}

func delimiter(c byte) bool {
	return c == ',' || c == '}' || c == ']' || c == ' ' || c == '\n' || c == '\t' || c == '\r'
}

// number is the grammar of RFC 8259 section 6.
func number(b []byte) bool {
	i := 0
	digits := func() bool {
		from := i
		for i < len(b) && b[i] >= '0' && b[i] <= '9' {
			i++
		}
		return i > from
	}
	if i < len(b) && b[i] == '-' {
		i++
	}
	from := i
	if !digits() || b[from] == '0' && i > from+1 {
		return false
	}
	if i < len(b) && b[i] == '.' {
		i++
		if !digits() {
			return false
		}
	}
	if i < len(b) && (b[i] == 'e' || b[i] == 'E') {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		if !digits() {
			return false
		}
	}
	return i == len(b)
}

func (s *scan) str() bool {
	if !s.take('"') {
		return false
	}
	for ; s.i < len(s.b); s.i++ {
		switch c := s.b[s.i]; {
		case c == '"':
			s.i++
			return true
		case c == '\\':
			s.i++
		case c < ' ':
			return false
		}
	}
	return false
}

// plain is the text of a JSON string.
func plain(raw []byte) ([]byte, bool) {
	if len(raw) < 2 || raw[0] != '"' {
		return nil, false
	}
	if bytes.IndexByte(raw, '\\') < 0 {
		return raw[1 : len(raw)-1], true
	}
	var s string
	err := json.Unmarshal(raw, &s)
	return []byte(s), err == nil
}

func unquote(raw []byte) (string, bool) {
	b, ok := plain(raw)
	return string(b), ok
}

// decode is a value as Go knows it, numbers as json.Number so that none loses digits; nil for one
// that is not right inside.
func decode(raw []byte) any {
	switch {
	case len(raw) == 0:
		return nil
	case raw[0] == '"':
		if s, ok := unquote(raw); ok {
			return s
		}
		return nil
	case raw[0] == 't':
		return true
	case raw[0] == 'f':
		return false
	case raw[0] == '-' || raw[0] >= '0' && raw[0] <= '9':
		return json.Number(raw)
	case raw[0] == 'n':
		return nil
	}
	dec := json.NewDecoder(strings.NewReader(string(raw)))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil
	}
	return v
}
