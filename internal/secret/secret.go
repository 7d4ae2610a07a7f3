// Package secret holds values that must never be seen: a Value that redacts itself wherever it is
// printed, and a Set of several active versions, of which any verifies and the newest signs.
package secret

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
)

const redacted = "REDACTED"

// Value is a secret. It prints as REDACTED in fmt, JSON and slog; Reveal gives the bytes. The bytes
// stand behind a pointer, because fmt prints unexported fields of others by reflection and calls no
// method there: of a pointer it shows the address.
type Value struct{ b *[]byte }

// NewValue keeps a copy of b.
func NewValue(b []byte) Value {
	b = bytes.Clone(b)
	return Value{&b}
}

// Reveal is the secret itself, for the one call that needs it. It must not be changed or kept.
func (v Value) Reveal() []byte {
	if v.b == nil {
		return nil
	}
	return *v.b
}

// Empty says that there is no secret.
func (v Value) Empty() bool { return len(v.Reveal()) == 0 }

// Format makes every fmt verb print REDACTED.
func (Value) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// MarshalText makes JSON and text encoders write REDACTED.
func (Value) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue makes slog write REDACTED.
func (Value) LogValue() slog.Value { return slog.StringValue(redacted) }

// Version is one active value of a set. Label says where it comes from; it is not secret.
type Version struct {
	Label string
	Value Value
}

// Set is a named secret with its active versions, newest first. Any of them verifies, the newest
// signs. A set that Source.Load returned is never empty.
type Set struct {
	Name     string
	versions []Version
}

// NewSet is a set of the given versions, newest first.
func NewSet(name string, versions ...Version) *Set { return &Set{Name: name, versions: versions} }

// Versions are the active versions, newest first. Callers must not change the slice.
func (s *Set) Versions() []Version { return s.versions }

// Newest is the version that signs.
func (s *Set) Newest() Version { return s.versions[0] }

// Source says where a set's value is read from. Exactly one field is set.
type Source struct {
	// File is the path of a file with the value; one trailing newline is not part of it.
	File string `json:"file,omitempty"`
	// Env is the name of an environment variable with the value.
	Env string `json:"env,omitempty"`
	// At is where the configuration names the source, such as Caddyfile:12; errors show it.
	At string `json:"at,omitempty"`
}

// Load reads the source. Its errors say what to do and never hold the value.
func (s Source) Load(name string) (*Set, error) {
	label, value, err := s.read()
	if err != nil {
		at := ""
		if s.At != "" {
			at = ", at " + s.At
		}
		return nil, fmt.Errorf("secret %s: %w%s", name, err, at)
	}
	return NewSet(name, Version{Label: label, Value: NewValue(value)}), nil
}

func (s Source) read() (label string, value []byte, err error) {
	switch {
	case s.File != "" && s.Env != "":
		return "", nil, errors.New("give either file or env, not both")
	case s.File != "":
		b, err := os.ReadFile(s.File)
		if err != nil {
			return "", nil, fmt.Errorf("the file cannot be read, create it or correct the path: %w", err)
		}
		b = bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r"))
		if len(b) == 0 {
			return "", nil, fmt.Errorf("the file %s is empty, write the secret into it", s.File)
		}
		return "file:" + s.File, b, nil
	case s.Env != "":
		v := os.Getenv(s.Env)
		if v == "" {
			return "", nil, fmt.Errorf("the environment variable %s is not set, set it before the start", s.Env)
		}
		return "env:" + s.Env, []byte(v), nil
	}
	return "", nil, errors.New("give its source: file PATH or env NAME")
}
