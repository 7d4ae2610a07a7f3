package cache

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/exchange"
	"github.com/gatehouse-proxy/gatehouse/internal/egress"
	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

// maxRedirects bounds the redirects of one fetch, all of which stay on the host.
const maxRedirects = 5

// target reads the URL of a fill and makes sure that it may be fetched.
func (s *Service) target(raw string) (*url.URL, error) {
	if raw == "" {
		return nil, problem.New(problem.InvalidRequest, "url is required: the address to fetch the value from.")
	}
	u, err := url.Parse(raw)
	if err != nil || len(raw) > 4096 || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return nil, problem.New(problem.InvalidRequest, "url must be an absolute http or https URL of at most 4096 bytes.").Because(err)
	}
	if u.User != nil {
		return nil, problem.New(problem.Unprocessable, "url must not hold a user name or a password.")
	}
	switch err = s.places.Check(u); {
	case errors.Is(err, egress.ErrOwn):
		return nil, ownAddress(err)
	case err != nil:
		return nil, problem.New(problem.Unprocessable, "The url is in no place that fills may fetch from, add it to fill_allow in the settings of the backend cache.")
	}
	u.Fragment, u.RawFragment = "", ""
	return u, nil
}

func ownAddress(err error) error {
	return problem.New(problem.Unprocessable,
		"The address of url is the gateway's own. A fill may fetch from one of its sites if fill_allow names the host and the port.").Because(err)
}

// newClient fetches straight from the origin: no proxy of the environment, no cookies, and redirects
// only to where the first request went, within the places.
func newClient(places egress.Places) *exchange.Client {
	return exchange.New(exchange.Options{
		DialTimeout: 5 * time.Second,
		Compression: true,
		Guard: func(base *http.Transport, dialTimeout time.Duration) exchange.Transport {
			return places.NewTransport(base, dialTimeout)
		},
		Redirect: func(r *http.Request, via []*http.Request) error {
			if len(via) > maxRedirects {
				return errors.New("the origin redirects too often")
			}
			first, err := egress.PlaceOf(via[0].URL)
			if err != nil {
				return err
			}
			next, err := egress.PlaceOf(r.URL)
			if err != nil || r.URL.Scheme != via[0].URL.Scheme || !next.SameHost(first) || r.URL.User != nil {
				return errors.New("the origin redirects to another host")
			}
			return nil
		},
	})
}

// fetch gets the URL once there is a slot for it. Its errors are problems.
func (s *Service) fetch(ctx context.Context, target string) (value []byte, contentType string, err error) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return nil, "", busy()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, http.NoBody)
	if err != nil {
		return nil, "", fmt.Errorf("making the request: %w", err)
	}
	req.Header.Set("User-Agent", "gatehouse")
	limit := int(s.cfg.MaxValue)
	resp, err := s.client.Do(req, limit)
	if err != nil {
		return nil, "", failed(ctx, err)
	}
	if resp.Status < 200 || resp.Status > 299 || resp.Status == http.StatusPartialContent {
		e := problem.New(problem.UpstreamFailed, "The origin answered the fill with status %d.", resp.Status)
		e.Extra = map[string]any{"origin_status": resp.Status}
		return nil, "", e
	}
	if resp.More {
		return nil, "", problem.New(problem.UpstreamFailed, "The origin's body is larger than max_value, %d bytes.", limit)
	}
	if resp.Cut != nil {
		return nil, "", failed(ctx, resp.Cut)
	}
	contentType, err = parseContentType(resp.Header.Get("Content-Type"))
	if err != nil {
		contentType = "application/octet-stream"
	}
	return resp.Body, contentType, nil
}

func failed(ctx context.Context, err error) error {
	if errors.Is(err, egress.ErrOwn) {
		return ownAddress(err)
	}
	if ctx.Err() != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return problem.New(problem.UpstreamTimeout, "The origin did not answer the fill in time.").Because(err)
	}
	return problem.New(problem.UpstreamFailed, "The origin did not answer the fill.").Because(err)
}
