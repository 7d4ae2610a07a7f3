package webhooks

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/egress"
	"github.com/gatehouse-proxy/gatehouse/internal/signature"
)

const (
	userAgent = "Gatehouse-Webhooks"
	// maxAnswer is how much of an answer is read, so that its connection can be used again.
	maxAnswer = 16 << 10
	// maxAnswerHeader bounds the headers of an answer.
	maxAnswerHeader = 32 << 10
	dialTimeout     = 5 * time.Second
)

// sender posts to endpoints. It follows no redirect, and uses no proxy: behind one the guard would
// see the proxy's address instead of the endpoint's.
type sender struct{ client *http.Client }

func newSender(g *guard, timeout time.Duration) *sender {
	return &sender{&http.Client{
		Timeout:       timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     newTransport(g, &tls.Config{MinVersion: tls.VersionTLS12}),
	}}
}

func newTransport(g *guard, t *tls.Config) *egress.Transport {
	judge := func(u *url.URL) (int, error) { return g.classOf(u), nil }
	return egress.NewTransport(&http.Transport{
		TLSClientConfig:        t,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxAnswerHeader,
		MaxIdleConns:           100,
		MaxIdleConnsPerHost:    4,
		IdleConnTimeout:        30 * time.Second,
	}, dialTimeout, judge, g.classes()...)
}

func (s *sender) close() { s.client.CloseIdleConnections() }

// post makes one attempt and returns the answer's status and Retry-After.
func (s *sender) post(ctx context.Context, target, eventID string, now time.Time, body []byte, key signature.Key) (status int, retryAfter string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", userAgent)
	signature.Standard.Sign(req.Header, eventID, now, body, key)
	resp, err := s.client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.CopyN(io.Discard, resp.Body, maxAnswer) // the status decides, whatever becomes of the body
	return resp.StatusCode, resp.Header.Get("Retry-After"), nil
}

// reason is a failed attempt in words for whoever owns the endpoint. Addresses are left out: they
// would tell how the inner network is laid out.
func reason(err error) string {
	if errors.Is(err, egress.ErrOwn) {
		return "the address is the gateway's own"
	}
	if errors.Is(err, egress.ErrAddress) {
		return "the address is private or reserved and is not allowed"
	}
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
		return "no answer in time"
	}
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return "the host name could not be resolved"
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return "the TLS certificate is not valid"
	}
	return "the connection failed"
}
