package signature

import (
	"encoding/hex"
	"net/http"
	"strings"
	"time"
)

const stripeSignature = "Stripe-Signature"

// Stripe signs "<t>.<body>" and sends Stripe-Signature: t=<seconds>,v1=<hex>[,v1=<hex>]. The key is
// the whole secret, whsec_ and all. v0 is Stripe's mark of test events and is ignored.
var Stripe = &Scheme{
	Name:  "stripe",
	Timed: true,
	unit:  time.Second,
	key:   whole,
	read:  readStripe,
	write: func(h http.Header, c *claim) {
		s := "t=" + c.timestamp
		for _, m := range c.macs {
			s += ",v1=" + hex.EncodeToString(m)
		}
		h.Set(stripeSignature, s)
	},
	lead: func(c *claim) string { return c.timestamp + "." },
}

func readStripe(h http.Header) (*claim, error) {
	s, err := one(h, stripeSignature)
	if err != nil {
		return nil, err
	}
	c := new(claim)
	times := 0
	for entry := range strings.SplitSeq(s, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(entry), "=")
		switch name {
		case "t":
			c.timestamp = value
			times++
		case "v1":
			if m, err := hex.DecodeString(value); err == nil {
				c.macs = append(c.macs, m)
			}
		}
	}
	switch {
	case times != 1:
		return nil, fail(ErrMalformed, "The header %s must hold t= once.", stripeSignature)
	case len(c.macs) == 0:
		return nil, fail(ErrMalformed, "The header %s holds no signature of the form v1=<hex>.", stripeSignature)
	}
	c.at, err = instant(c.timestamp, stripeSignature, time.Second)
	return c, err
}
