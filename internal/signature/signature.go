// Package signature signs webhooks and verifies them. It knows four schemes: those of Stripe, of
// GitHub and of Standard Webhooks, and one with a timestamp in milliseconds. It works on headers
// and raw bytes, takes the time as an argument and does no I/O.
package signature

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// DefaultTolerance is how far a signed timestamp may be from now, in either direction.
const DefaultTolerance = 5 * time.Minute

// The kinds of failure. Every error of Verify is an *Error of one of them.
var (
	// ErrMissing: a header that the scheme needs is not there.
	ErrMissing = errors.New("signature missing")
	// ErrMalformed: a header is there but does not follow the scheme.
	ErrMalformed = errors.New("signature malformed")
	// ErrTimestamp: a genuine signature, but its time is too far from now: a replay, or a wrong clock.
	ErrTimestamp = errors.New("timestamp outside the tolerance")
	// ErrMismatch: no signature matches under any key.
	ErrMismatch = errors.New("no signature matches")
)

// Error says why a request is not what its sender signed.
type Error struct {
	// Kind is one of the errors above.
	Kind error
	// Sentence is public: it names headers and times, and never a signature or a secret.
	Sentence string
}

func (e *Error) Error() string { return e.Kind.Error() + ": " + e.Sentence }

func (e *Error) Unwrap() error { return e.Kind }

func fail(kind error, format string, args ...any) error {
	return &Error{Kind: kind, Sentence: fmt.Sprintf(format, args...)}
}

// Scheme is one way of signing webhooks. The four of them are package variables.
type Scheme struct {
	// Name is the word for it in configurations.
	Name string
	// Timed says that the time of signing is part of what is signed.
	Timed bool

	unit  time.Duration                       // of the timestamp; what is finer is not compared
	key   func(secret []byte) (Key, error)    // the secret as an issuer gives it out
	read  func(h http.Header) (*claim, error) // a request's headers
	write func(h http.Header, c *claim)       // the same, as a sender
	lead  func(c *claim) string               // what is signed before the body
}

// claim is what the headers of one request say.
type claim struct {
	id        string    // of the event, if the scheme signs it
	timestamp string    // as it stands in the header: this text is signed, not the number
	at        time.Time // what timestamp means
	macs      [][]byte  // HMAC-SHA256
	eddsas    [][]byte  // Ed25519, of Standard Webhooks alone
}

// Schemes are all schemes by name.
var Schemes = map[string]*Scheme{
	GitHub.Name: GitHub, Standard.Name: Standard, Stripe.Name: Stripe, Timestamped.Name: Timestamped,
}

// Key is a secret in the form that its scheme works with.
type Key struct {
	mac     []byte
	public  ed25519.PublicKey
	private ed25519.PrivateKey
}

// ParseKey reads a secret as its issuer shows it. Its errors never hold the secret.
func (s *Scheme) ParseKey(secret []byte) (Key, error) {
	if len(secret) == 0 {
		return Key{}, errors.New("the secret is empty")
	}
	return s.key(secret)
}

// whole is the key function of schemes that use the secret's bytes as they are.
func whole(secret []byte) (Key, error) { return Key{mac: secret}, nil }

// Verified is what a genuine request says about its event.
type Verified struct {
	// ID is the event's id if the scheme signs one, else empty.
	ID string
	// At is when the request was signed; zero for a scheme without a timestamp.
	At time.Time
}

// Verify checks that one of the keys signed body under one of the signatures in h, and that the
// signed time is within tolerance of now. Signatures of unknown kinds are ignored. Without keys
// nothing is genuine. The time is judged only on a genuine signature.
func (s *Scheme) Verify(now time.Time, h http.Header, body []byte, tolerance time.Duration, keys ...Key) (Verified, error) {
	c, err := s.read(h)
	if err != nil {
		return Verified{}, err
	}
	if !s.genuine(c, body, keys) {
		return Verified{}, fail(ErrMismatch, "No signature of the request matches: the secret is another one, or the body was changed on its way.")
	}
	if s.Timed {
		if err = s.fresh(now, c.at, tolerance); err != nil {
			return Verified{}, err
		}
	}
	return Verified{ID: c.id, At: c.at}, nil
}

// Check returns the error that Verify would return for the headers alone, whatever the body and the keys
// are: a signature that is missing or malformed. It is nil where only the body can tell.
func (s *Scheme) Check(h http.Header) error {
	_, err := s.read(h)
	return err
}

func (s *Scheme) genuine(c *claim, body []byte, keys []Key) bool {
	lead := s.lead(c)
	ok := false
	for _, k := range keys {
		if k.mac != nil && len(c.macs) > 0 {
			want := mac(k.mac, lead, body)
			for _, got := range c.macs {
				ok = hmac.Equal(got, want) || ok
			}
		}
		if k.public != nil && len(c.eddsas) > 0 {
			message := append([]byte(lead), body...)
			for _, got := range c.eddsas {
				ok = ed25519.Verify(k.public, message, got) || ok
			}
		}
	}
	return ok
}

func (s *Scheme) fresh(now, at time.Time, tolerance time.Duration) error {
	now = now.Truncate(s.unit)
	switch age := now.Sub(at); {
	case age > tolerance:
		return fail(ErrTimestamp, "The signature is older than %s: this is a replay, or a clock is wrong.", tolerance)
	case age < -tolerance:
		return fail(ErrTimestamp, "The signature is dated more than %s in the future: a clock is wrong.", tolerance)
	}
	return nil
}

// Sign puts on h what a sender sends with body: the signature under every key, and the id and the
// time where the scheme has them. id is ignored by schemes that do not sign one. There must be a key.
func (s *Scheme) Sign(h http.Header, id string, at time.Time, body []byte, keys ...Key) {
	c := &claim{id: id, at: at}
	if s.Timed {
		c.timestamp = fmt.Sprint(at.UnixNano() / int64(s.unit))
	}
	lead := s.lead(c)
	for _, k := range keys {
		if k.private != nil {
			c.eddsas = append(c.eddsas, ed25519.Sign(k.private, append([]byte(lead), body...)))
		}
		if k.mac != nil {
			c.macs = append(c.macs, mac(k.mac, lead, body))
		}
	}
	s.write(h, c)
}

func mac(key []byte, lead string, body []byte) []byte {
	m := hmac.New(sha256.New, key)
	_, _ = m.Write([]byte(lead))
	_, _ = m.Write(body)
	return m.Sum(nil)
}
