package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

// maxRedirects bounds the redirects of one fetch, all of which stay on the host.
const maxRedirects = 5

// host is an entry of fill_allow: lower case, the port empty for any.
type host struct{ name, port string }

// parseHosts reads fill_allow.
func parseHosts(entries []string) ([]host, error) {
	hosts := make([]host, 0, len(entries))
	for _, e := range entries {
		u, err := url.Parse("http://" + e)
		if err != nil || u.Hostname() == "" || u.Host != e || strings.HasSuffix(e, ":") {
			return nil, fmt.Errorf("fill_allow: %q is not a host, give HOST or HOST:PORT without scheme and path", e)
		}
		if p := u.Port(); p != "" {
			if n, err := strconv.Atoi(p); err != nil || n < 1 || n > 65535 {
				return nil, fmt.Errorf("fill_allow: %q has no valid port, give 1 to 65535", e)
			}
		}
		hosts = append(hosts, host{strings.ToLower(u.Hostname()), u.Port()})
	}
	return hosts, nil
}

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
	if !s.allowed(u) {
		return nil, problem.New(problem.Unprocessable, "The host of url is not one that fills may fetch from, add it to fill_allow in the settings of the backend cache.")
	}
	u.Fragment, u.RawFragment = "", ""
	return u, nil
}

func (s *Service) allowed(u *url.URL) bool {
	name, port := strings.ToLower(u.Hostname()), effectivePort(u)
	for _, h := range s.hosts {
		if h.name == name && (h.port == "" || h.port == port) {
			return true
		}
	}
	return false
}

func effectivePort(u *url.URL) string {
	switch {
	case u.Port() != "":
		return u.Port()
	case u.Scheme == "https":
		return "443"
	}
	return "80"
}

// newClient fetches straight from the origin: no proxy of the environment, no cookies, and
// redirects only to where the first request went.
func (s *Service) newClient() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DialContext:            (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
			TLSHandshakeTimeout:    5 * time.Second,
			ForceAttemptHTTP2:      true,
			MaxIdleConnsPerHost:    16,
			IdleConnTimeout:        30 * time.Second,
			MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			first := via[0].URL
			if r.URL.Scheme != first.Scheme || !strings.EqualFold(r.URL.Hostname(), first.Hostname()) || effectivePort(r.URL) != effectivePort(first) {
				return errors.New("the origin redirects to another host")
			}
			if len(via) > maxRedirects {
				return errors.New("the origin redirects too often")
			}
			return nil
		},
	}
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
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, "", failed(ctx, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode < 200 || resp.StatusCode > 299 || resp.StatusCode == http.StatusPartialContent {
		e := problem.New(problem.UpstreamFailed, "The origin answered the fill with status %d.", resp.StatusCode)
		e.Extra = map[string]any{"origin_status": resp.StatusCode}
		return nil, "", e
	}
	limit := int64(s.cfg.MaxValue)
	value, err = io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, "", failed(ctx, err)
	}
	if int64(len(value)) > limit {
		return nil, "", problem.New(problem.UpstreamFailed, "The origin's body is larger than max_value, %d bytes.", limit)
	}
	contentType, err = parseContentType(resp.Header.Get("Content-Type"))
	if err != nil {
		contentType = "application/octet-stream"
	}
	return value, contentType, nil
}

func failed(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return problem.New(problem.UpstreamTimeout, "The origin did not answer the fill in time.").Because(err)
	}
	return problem.New(problem.UpstreamFailed, "The origin did not answer the fill.").Because(err)
}
