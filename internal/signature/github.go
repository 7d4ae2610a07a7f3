package signature

import "net/http"

const githubSignature = "X-Hub-Signature-256"

// GitHub signs the body alone: X-Hub-Signature-256: sha256=<hex>. There is no time in it, so only
// the event's id tells a replay from a delivery. The SHA-1 header X-Hub-Signature is not looked at.
var GitHub = &Scheme{
	Name: "github",
	key:  whole,
	read: func(h http.Header) (*claim, error) {
		s, err := list(h, githubSignature, ",")
		if err != nil {
			return nil, err
		}
		macs, err := hexList(s, githubSignature)
		return &claim{macs: macs}, err
	},
	write: func(h http.Header, c *claim) { writeHexList(h, githubSignature, c.macs) },
	lead:  func(*claim) string { return "" },
}
