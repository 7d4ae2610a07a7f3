package jwtauth

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"
)

// primeFrom is the first prime from n on.
func primeFrom(n *big.Int) *big.Int {
	for p := new(big.Int).SetBit(n, 0, 1); ; p.Add(p, big.NewInt(2)) {
		if p.ProbablyPrime(10) {
			return p
		}
	}
}

func random(t *testing.T, bits int) *big.Int {
	t.Helper()
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), uint(bits)))
	if err != nil {
		t.Fatal(err)
	}
	return n.SetBit(n, bits-1, 1).SetBit(n, bits-2, 1)
}

func TestWeakRSAKeys(t *testing.T) {
	roca := big.NewInt(1) // as 65537^0 modulo all of the primes
	for _, p := range rocaPrimes {
		roca.Mul(roca, big.NewInt(int64(p)))
	}
	product := new(big.Int).Set(roca)
	roca.Mul(roca, random(t, 2049-roca.BitLen())).Add(roca, big.NewInt(1))
	for range 10_000 {
		if !strings.Contains(weakRSA(roca), "small factor") {
			break
		}
		roca.Add(roca, product)
	}
	p := primeFrom(random(t, 1024))
	next := primeFrom(new(big.Int).Add(p, big.NewInt(2)))
	good, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		n    *big.Int
		want string
	}{
		"good":         {good.N, ""},
		"even":         {new(big.Int).Lsh(p, 1024), "small factor"},
		"small-factor": {new(big.Int).Mul(new(big.Int).Mul(p, next), big.NewInt(1009)), "small factor"},
		"close-primes": {new(big.Int).Mul(p, next), "close to each other"},
		"square":       {new(big.Int).Mul(p, p), "close to each other"},
		"roca":         {roca, "ROCA"},
	} {
		_, err := newKey("", "", &rsa.PublicKey{N: c.n, E: 65537})
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

// TestCertificatesByKid: what Google publishes for Firebase.
func TestCertificatesByKid(t *testing.T) {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	cert := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	doc, _ := json.Marshal(map[string]string{"kid-1": cert, "kid-2": "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----", "kid-3": "x"})
	set, err := parseJWKS(doc, false)
	if err != nil || len(set.keys) != 1 || set.keys[0].id != "kid-1" || !set.keys[0].verifies("RS256", nil) {
		t.Errorf("got %+v (%v), want the key of the certificate", set, err)
	}
	for _, broken := range []string{`{"kid":"x"}`, `{"error":{"code":404}}`, `{}`} {
		if set, err := parseJWKS([]byte(broken), false); err == nil {
			t.Errorf("%s: got %+v", broken, set)
		}
	}
}

// BenchmarkFind looks a key up by its kid, among few and among as many as are taken.
func BenchmarkFind(b *testing.B) {
	for name, n := range map[string]int{"of-5": 5, "of-500": maxKeys} {
		var members []string
		for i := range n {
			members = append(members, edJWK("k"+string(rune('a'+i%26))+string(rune('a'+i/26))))
		}
		set, err := parseJWKS([]byte(setOf(members...)), false)
		if err != nil {
			b.Fatal(err)
		}
		set.counted("bench")
		last := set.keys[n-1].id
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if fit, _ := set.find(last, "EdDSA", nil); len(fit) != 1 {
					b.Fatal(fit)
				}
			}
		})
	}
}
