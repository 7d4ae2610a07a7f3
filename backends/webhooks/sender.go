package webhooks

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/exchange"
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
type sender struct {
	client  *exchange.Client
	timeout time.Duration
}

func newSender(g *guard, timeout time.Duration) *sender {
	return &sender{newClient(g, &tls.Config{MinVersion: tls.VersionTLS12}), timeout}
}

func newClient(g *guard, t *tls.Config) *exchange.Client {
	judge := func(u *url.URL) (int, error) { return g.classOf(u), nil } //nolint:unparam // as transports ask
	return exchange.New(exchange.Options{
		DialTimeout: dialTimeout, TLS: t, MaxHeader: maxAnswerHeader, IdlePerHost: 4,
		Guard: func(base *http.Transport, dialTimeout time.Duration) exchange.Transport {
			return egress.NewTransport(base, dialTimeout, judge, g.classes()...)
		},
	})
}

func (s *sender) close() { s.client.CloseIdle() }

// post makes one attempt and returns the answer's status and Retry-After.
func (s *sender) post(ctx context.Context, target, eventID string, now time.Time, body []byte, key signature.Key) (status int, retryAfter string, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", userAgent)
	signature.Standard.Sign(req.Header, eventID, now, body, key)
	resp, err := s.client.Do(req, maxAnswer)
	if err != nil {
		return 0, "", err
	}
	if resp.Status < 300 && resp.Cut != nil {
		return 0, "", resp.Cut
	}
	return resp.Status, resp.Header.Get("Retry-After"), nil
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
	if e, ok := errors.AsType[net.Error](err); errors.Is(err, context.DeadlineExceeded) || ok && e.Timeout() {
		return "no answer in time"
	}
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return "the host name could not be resolved"
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return "the TLS certificate is not valid"
	}
	if errors.Is(err, exchange.ErrSwitched) {
		return "the endpoint switched protocols (101)"
	}
	return "the connection failed"
}
