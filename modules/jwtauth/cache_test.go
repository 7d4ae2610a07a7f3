package jwtauth

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"runtime"
	"testing"
	"time"
)

// usualIdentity is what an access token leaves in the cache: a UUID for the subject and one for jti, and
// a header with the subject.
func usualIdentity(p *provider, set *keySet, n int, now time.Time) *identity {
	sub := fmt.Sprintf("%08d-89ab-4def-8123-456789abcdef", n)
	return &identity{
		provider: p, set: set, key: &set.keys[0], until: now.Add(time.Hour).UnixMilli(), issued: now.UnixMilli(), subject: sub,
		iss: p.issuer, jti: fmt.Sprintf("%08d-cdef-4123-8567-89abcdef0123", n), fields: []field{{"X-User-Id", sub}},
	}
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestHundredThousandTokensFitInTheCache(t *testing.T) {
	const tokens, most = 100_000, 40 << 20
	now := time.Now()
	s := single(t, "k", []byte(keyHS256))
	p := newProvider(Trusted{Issuer: "https://issuer.example"}, s, "test")
	before := heap()
	c := newTokenCache()
	sum := func(n int) (k cacheKey) {
		binary.BigEndian.PutUint64(k.sum[:], uint64(n)*0x9e3779b97f4a7c15)
		return k
	}
	for n := range tokens {
		c.put(sum(n), usualIdentity(p, s.set, n, now))
	}
	c.entries.CleanUp()
	used := heap() - before
	kept := 0
	for n := range tokens {
		if _, ok := c.get(sum(n), now); ok {
			kept++
		}
	}
	t.Logf("%d tokens in %.1f MiB, %d bytes each; they weigh %.1f MiB", kept, float64(used)/(1<<20), int(used)/tokens, float64(c.entries.WeightedSize())/(1<<20))
	if kept != tokens {
		t.Errorf("got %d tokens, want all %d", kept, tokens)
	}
	if used >= most {
		t.Errorf("got %d bytes, want less than %d", used, most)
	}
	for n := range 4 * tokens { // far more than there is room for
		c.put(sum(tokens+n), usualIdentity(p, s.set, n, now))
	}
	c.entries.CleanUp()
	if used = heap() - before; used >= most+most/4 {
		t.Errorf("with the cache full: got %d bytes", used)
	}
	runtime.KeepAlive(c)
}

func TestCacheHoldsNoToken(t *testing.T) {
	v := testVerifier(Trusted{}, Policy{}, single(t, "", []byte(keyHS256)))
	token := hs(t, keyHS256, nil)
	id, _, err := v.check(t.Context(), token, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	k := keyOf(v.owner, token)
	if shown := fmt.Sprintf("%+v %s", *id, hex.EncodeToString(k.sum[:])); len(k.sum) != 32 || contains(shown, token) {
		t.Error("the entry holds the token")
	}
	if _, ok := verified.get(keyOf(v.owner, token[:len(token)-1]), time.Now()); ok {
		t.Error("a cut token is found")
	}
	if _, ok := verified.get(k, time.UnixMilli(id.until)); ok {
		t.Error("the token is found after its end")
	}
}

func contains(s, token string) bool {
	for i := 0; i+20 <= len(token); i += 20 {
		for j := 0; j+20 <= len(s); j++ {
			if s[j:j+20] == token[i:i+20] {
				return true
			}
		}
	}
	return false
}
