package jwtauth

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const minRSABits = 2048

// algEd25519 is the name that RFC 9864 gives to the algorithm that RFC 8037 calls EdDSA.
const algEd25519 = "Ed25519"

func init() {
	jwt.RegisterSigningMethod(algEd25519, func() jwt.SigningMethod { return jwt.SigningMethodEdDSA })
}

// hmacBytes is the least length of an HMAC key by algorithm (RFC 7518 section 3.2).
var hmacBytes = map[string]int{"HS256": 32, "HS384": 48, "HS512": 64}

// rsaAlgs are the algorithms that a JWK may pin an RSA key to.
var rsaAlgs = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}

// ecAlgs is the one algorithm of each curve (RFC 7518 section 3.4).
var ecAlgs = map[string]string{"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}

// allAlgs are all algorithms that any key can have.
var allAlgs = append([]string{"HS256", "HS384", "HS512", "ES256", "ES384", "ES512", "EdDSA", algEd25519}, rsaAlgs...)

// key verifies signatures of its own algorithm and of no other (RFC 8725 section 3.1).
type key struct {
	id   string   // kid, or "" for a key that has none and fits any
	algs []string // header values of alg that it verifies, where the issuer's algorithms are not named
	any  bool     // it names no algorithm itself, and verifies those of the issuer that its kind can
	key  any      // []byte, *rsa.PublicKey, *ecdsa.PublicKey or ed25519.PublicKey

	label string          // what it is called where its use is shown
	used  func(time.Time) // tells its owner that it has verified a token; nil for nobody
	uses  *uses           // nil in a set that no source has given out
}

// keySet is an immutable set of keys, with the issuer they belong to where that is known.
type keySet struct {
	keys []key
	// issuer and audience are what tokens must have where the directive does not say.
	issuer   string
	audience []string

	left int // keys that were left out of a set with too many

	byID map[string][]*key // those with a kid; nil until counted
	rest []*key            // those without one, which fit any
}

// counted gives each key its place among the uses of the source.
func (s *keySet) counted(source string) *keySet {
	for i := range s.keys {
		k := &s.keys[i]
		if k.label == "" {
			k.label = k.id
		}
		k.uses = allUses.of(source, k.label, k.algs[0])
	}
	s.byID = map[string][]*key{}
	for i := range s.keys {
		if k := &s.keys[i]; k.id == "" {
			s.rest = append(s.rest, k)
		} else {
			s.byID[k.id] = append(s.byID[k.id], k)
		}
	}
	return s
}

// maxTries is how many keys a token is tried with that could be signed by any of them.
const maxTries = 32

// find gives the keys that may have signed a token with this kid ("" if it has none) and alg, of
// those that allowed says ("" all). known says that a key of that kid is there, whatever its algorithm.
func (s *keySet) find(kid, alg string, allowed []string) (fit []*key, known bool) {
	try := func(k *key) {
		known = true
		if len(fit) < maxTries && k.verifies(alg, allowed) {
			fit = append(fit, k)
		}
	}
	if kid != "" && s.byID != nil {
		for _, k := range s.byID[kid] {
			try(k)
		}
		for _, k := range s.rest {
			try(k)
		}
		return fit, known
	}
	for i := range s.keys {
		if k := &s.keys[i]; kid == "" || k.id == "" || k.id == kid {
			try(k)
		}
	}
	return fit, known
}

// verifies says whether the key is for tokens with this alg, of those that allowed says ("" all).
func (k *key) verifies(alg string, allowed []string) bool {
	switch {
	case len(allowed) == 0:
		return slices.Contains(k.algs, alg)
	case k.any && k.can(alg):
		return slices.Contains(allowed, alg)
	}
	return slices.Contains(k.algs, alg) && slices.Contains(allowed, k.algs[0])
}

// can says whether a key of a kind that has several algorithms can have this one. Each token asks, so it looks at
// nothing else of the key.
func (k *key) can(alg string) bool {
	switch raw := k.key.(type) {
	case []byte:
		need, ok := hmacBytes[alg]
		return ok && len(raw) >= need
	case *rsa.PublicKey:
		return slices.Contains(rsaAlgs, alg)
	}
	return false
}

// any says whether a key is for one of the algorithms.
func (s *keySet) any(algs []string) bool {
	return slices.ContainsFunc(s.keys, func(k key) bool {
		return slices.ContainsFunc(algs, func(alg string) bool { return k.verifies(alg, algs) })
	})
}

// newKey pins a key to its algorithm: alg if it fits the key, or the key's usual one if alg is "", unless
// the issuer's algorithms say another. Of a private key it takes the public half.
func newKey(id, alg string, raw any) (key, error) {
	k, err := pinned(id, alg, raw)
	k.any = alg == ""
	return k, err
}

func pinned(id, alg string, raw any) (key, error) {
	switch k := raw.(type) {
	case []byte:
		if alg == "" {
			alg = "HS256"
		}
		need, ok := hmacBytes[alg]
		switch {
		case !ok:
			return key{}, fmt.Errorf("a symmetric key cannot verify %q", alg)
		case len(k) < need:
			return key{}, fmt.Errorf("a key for %s needs at least %d bytes, it has %d", alg, need, len(k))
		}
		return key{id: id, algs: []string{alg}, key: k}, nil
	case *rsa.PrivateKey:
		return pinned(id, alg, &k.PublicKey)
	case *rsa.PublicKey:
		if alg == "" {
			alg = "RS256"
		}
		switch {
		case !slices.Contains(rsaAlgs, alg):
			return key{}, fmt.Errorf("an RSA key cannot verify %q", alg)
		case k.N.BitLen() < minRSABits:
			return key{}, fmt.Errorf("an RSA key needs at least %d bits, it has %d", minRSABits, k.N.BitLen())
		case k.E < 3 || k.E%2 == 0:
			return key{}, errors.New("the RSA key has an impossible exponent")
		}
		if why := weakRSA(k.N); why != "" {
			return key{}, errors.New("the RSA key is weak: " + why)
		}
		return key{id: id, algs: []string{alg}, key: k}, nil
	case *ecdsa.PrivateKey:
		return pinned(id, alg, &k.PublicKey)
	case *ecdsa.PublicKey:
		own, ok := ecAlgs[k.Params().Name]
		if !ok || alg != "" && alg != own {
			return key{}, fmt.Errorf("an EC key on %s cannot verify %q", k.Params().Name, alg)
		}
		return key{id: id, algs: []string{own}, key: k}, nil
	case ed25519.PrivateKey:
		return pinned(id, alg, k.Public())
	case ed25519.PublicKey:
		if alg != "" && alg != "EdDSA" && alg != algEd25519 {
			return key{}, fmt.Errorf("an Ed25519 key cannot verify %q", alg)
		}
		return key{id: id, algs: []string{"EdDSA", algEd25519}, key: k}, nil
	}
	return key{}, errors.New("the type of the key is not one that verifies tokens: use RSA, EC P-256, P-384, P-521, Ed25519 or HMAC")
}

// accepted says whether alg is an algorithm that any key can have.
func accepted(alg string) bool { return slices.Contains(allAlgs, alg) }
