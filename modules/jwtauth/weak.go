package jwtauth

import (
	"math/big"
	"sync"
)

const (
	// smallPrimes is below what the factors of a modulus are looked for one by one.
	smallPrimes = 1 << 11
	// closeSteps is how many steps of Fermat's method are made: factors that lie close to each other are found
	// in the first few.
	closeSteps = 100
)

// primes are those below smallPrimes.
var primes = sync.OnceValue(func() (all []uint64) {
	for n := uint64(2); n < smallPrimes; n++ {
		if big.NewInt(int64(n)).ProbablyPrime(0) { // which is exact below 2^64
			all = append(all, n)
		}
	}
	return all
})

// rocaPrimes are primes modulo which the moduli of some smart cards and TPMs are powers of 65537, which gives
// their factors away (CVE-2017-15361).
var rocaPrimes = []uint64{11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157}

// weakRSA says why a modulus can be factored, "" if no reason is known.
func weakRSA(n *big.Int) string {
	rest := new(big.Int)
	mod := func(p uint64) uint64 { return rest.Mod(n, new(big.Int).SetUint64(p)).Uint64() }
	for _, p := range primes() {
		if mod(p) == 0 {
			return "its modulus has a small factor"
		}
	}
	roca := true
	for _, p := range rocaPrimes {
		if roca = powerOf65537(mod(p), p); !roca {
			break
		}
	}
	if roca {
		return "it was made by hardware with the fault ROCA (CVE-2017-15361)"
	}
	// Fermat: n = a² - b² for an a little above the root of n, where the factors are close.
	a, b, root, one := new(big.Int).Sqrt(n), new(big.Int), new(big.Int), big.NewInt(1)
	for range closeSteps {
		b.Mul(a, a).Sub(b, n)
		if b.Sign() >= 0 && squares[mod64(b)] {
			if root.Sqrt(b); root.Mul(root, root).Cmp(b) == 0 {
				return "the factors of its modulus are too close to each other"
			}
		}
		a.Add(a, one)
	}
	return ""
}

func mod64(n *big.Int) uint {
	return n.Bit(0) | n.Bit(1)<<1 | n.Bit(2)<<2 | n.Bit(3)<<3 | n.Bit(4)<<4 | n.Bit(5)<<5
}

// squares are those modulo 64, which most numbers are not.
var squares = func() (is [64]bool) {
	for i := range 64 {
		is[i*i%64] = true
	}
	return is
}()

// powerOf65537 says whether x is a power of 65537 modulo p.
func powerOf65537(x, p uint64) bool {
	for power, i := uint64(1), uint64(0); i < p; power, i = power*(65537%p)%p, i+1 {
		if power == x {
			return true
		}
	}
	return false
}
