// Package secret holds values that must never be seen: a Value that redacts itself wherever it is
// printed, and a Set of several active versions, of which any verifies and the newest signs.
package secret

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
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

// Equal says whether both are the same secret.
func (v Value) Equal(o Value) bool { return bytes.Equal(v.Reveal(), o.Reveal()) }

// Format makes every fmt verb print REDACTED.
func (Value) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// MarshalText makes JSON and text encoders write REDACTED.
func (Value) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue makes slog write REDACTED.
func (Value) LogValue() slog.Value { return slog.StringValue(redacted) }

// Fetcher reads a set's versions from where they are kept, newest first. It obeys ctx. Its errors say
// what to do and never hold a value.
type Fetcher interface {
	Fetch(ctx context.Context) ([]Version, error)
}

// Store is where a set is kept that can also be written to.
type Store interface {
	Fetcher
	// Change replaces the versions by what by makes of them, newest first, and lets no other change come
	// between. If it fails the old versions are in force, or it says that this is not known.
	Change(ctx context.Context, by func(old []Version) ([]Version, error)) error
}
