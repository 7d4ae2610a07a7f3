package signature

import (
	"net/http"
	"time"
)

const (
	timestampedTime      = "X-Webhook-Timestamp"
	timestampedSignature = "X-Webhook-Signature"
	// secondsDigits is the length of a timestamp in seconds until the year 2286.
	secondsDigits = 10
)

// Timestamped signs "<timestamp>.<body>", with the time in milliseconds in X-Webhook-Timestamp and
// X-Webhook-Signature: sha256=<hex>; several signatures are separated by commas.
var Timestamped = &Scheme{
	Name:  "timestamped",
	Timed: true,
	unit:  time.Millisecond,
	key:   whole,
	read:  readTimestamped,
	write: func(h http.Header, c *claim) {
		h.Set(timestampedTime, c.timestamp)
		writeHexList(h, timestampedSignature, c.macs)
	},
	lead: func(c *claim) string { return c.timestamp + "." },
}

func readTimestamped(h http.Header) (*claim, error) {
	s, err := list(h, timestampedSignature, ",")
	if err != nil {
		return nil, err
	}
	timestamp, err := one(h, timestampedTime)
	if err != nil {
		return nil, err
	}
	at, err := instant(timestamp, timestampedTime, time.Millisecond)
	if err != nil {
		return nil, err
	}
	if len(timestamp) <= secondsDigits {
		return nil, fail(ErrMalformed, "The header %s must be in milliseconds, %d digits look like seconds.", timestampedTime, len(timestamp))
	}
	macs, err := hexList(s, timestampedSignature)
	return &claim{timestamp: timestamp, at: at, macs: macs}, err
}
