package identity

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"

	"github.com/gatehouse-proxy/gatehouse/internal/secret"
)

// ServicePrefix begins the subject of a service. No user of ours has such an id.
const ServicePrefix = "service:"

// Claims are what a token says. Subject or Service, Issuer, Audience and TTL are required.
type Claims struct {
	// Service is the name of the app that the token is for, in place of Subject: the claim service has it, and
	// sub is ServicePrefix and the name.
	Service string
	// Subject is the stable id of whom the token is for.
	Subject string
	// Role is left out where it is empty.
	Role string
	// Scope are scopes with a space between them; left out where it is empty.
	Scope string
	// Session is the sid, by which all tokens of a login are revoked; left out where it is empty.
	Session string
	// AuthTime is when the password was given, in unix seconds; left out where it is 0.
	AuthTime int64
	Issuer   string
	Audience string
	TTL      time.Duration
}

var errNoKey = errors.New("no version of the signing key is active now")

func (c Claims) validate() error {
	switch {
	case c.Subject == "" || len(c.Subject) > 255 || !printable(c.Subject):
		return errors.New("the subject must be 1 to 255 printable characters")
	case c.Issuer == "" || c.Audience == "":
		return errors.New("the issuer and the audience must not be empty")
	case c.TTL < time.Second || c.TTL > MaxTTL:
		return errors.New("the ttl must be from 1s to 366d")
	}
	return validateGrants(c.Role, c.Scope)
}

// Signer signs tokens with the newest of its keys.
type Signer struct {
	keys   []signingKey // active, newest first
	coming []signingKey
	jwks   []byte
	// generation is another one for other keys.
	generation uint64
}

// NewSigner reads the keys that are active now. Its errors name the key that cannot be used.
func NewSigner(set *secret.Set) (*Signer, error) { return newSigner(set.Name, set.Current()) }

func newSigner(name string, of *secret.Snapshot) (s *Signer, err error) {
	s = new(Signer)
	if s.keys, err = parseKeys(name, of.Versions); err != nil {
		return nil, err
	}
	if s.coming, err = parseKeys(name, of.Coming); err != nil {
		return nil, err
	}
	s.jwks, err = jwksOf(slices.Concat(s.keys, s.coming))
	return s, err
}

// Mint is a signed token (RFC 7519) that is valid from now on. It has a random jti.
func (s *Signer) Mint(c Claims, now time.Time) (string, error) {
	if c.Service != "" {
		c.Subject = ServicePrefix + c.Service
	}
	if err := c.validate(); err != nil {
		return "", err
	}
	if len(s.keys) == 0 {
		return "", errNoKey
	}
	claims := jwt.MapClaims{
		"iss": c.Issuer, "sub": c.Subject, "aud": c.Audience, "jti": rand.Text(),
		"iat": now.Unix(), "exp": now.Add(c.TTL).Unix(),
	}
	if c.Role != "" {
		claims["role"] = c.Role
	}
	if c.Scope != "" {
		claims["scope"] = c.Scope
	}
	if c.Service != "" {
		claims["service"] = c.Service
	}
	if c.Session != "" {
		claims["sid"] = c.Session
	}
	if c.AuthTime != 0 {
		claims["auth_time"] = c.AuthTime
	}
	key := s.keys[0]
	t := jwt.NewWithClaims(key.method, claims)
	t.Header["kid"] = key.kid
	signed, err := t.SignedString(key.sign)
	if err != nil {
		return "", fmt.Errorf("signing the token: %w", err)
	}
	key.version.Used(now)
	return signed, nil
}

// jwksOf is the JWK set (RFC 7517 section 5) of the public keys; symmetric keys are not in it.
func jwksOf(keys []signingKey) ([]byte, error) {
	set := jwkset.JWKSMarshal{Keys: []jwkset.JWKMarshal{}}
	for _, k := range keys {
		if _, symmetric := k.verify.([]byte); symmetric {
			continue
		}
		jwk, err := jwkset.NewJWKFromKey(k.verify, jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{
			ALG: jwkset.ALG(k.method.Alg()), KID: k.kid, USE: jwkset.UseSig,
		}})
		if err != nil {
			return nil, fmt.Errorf("publishing the key %s: %w", k.kid, err)
		}
		set.Keys = append(set.Keys, jwk.Marshal())
	}
	b, err := json.Marshal(set)
	if err != nil {
		return nil, fmt.Errorf("publishing the keys: %w", err)
	}
	return append(b, '\n'), nil
}
