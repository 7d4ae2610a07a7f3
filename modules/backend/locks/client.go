package locks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/unit"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/command"
)

const (
	// answerTime bounds the wait for an answer, beside what the server is asked to wait.
	answerTime = 10 * time.Second
	// waitOnce is how long one request waits for a lock.
	waitOnce  = 30 * time.Second
	maxAnswer = 4 << 20
)

// api is the HTTP API of the locks of a gateway.
type api struct {
	client    *http.Client
	base      string // what stands before /locks
	tokenFile string // of the bearer token, empty for none
}

// remote is the API behind a URL.
func remote(at, tokenFile string) (*api, error) {
	u, err := url.Parse(at)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, command.Usage(fmt.Errorf("--url: %q must be the URL that stands before /locks, such as https://api.example.com", at))
	}
	return &api{
		client: &http.Client{
			Transport:     &http.Transport{Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: answerTime}).DialContext, TLSHandshakeTimeout: answerTime},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		base: strings.TrimSuffix(strings.TrimSuffix(at, "/"), "/locks"), tokenFile: tokenFile,
	}, nil
}

// refusal is an answer that is not 2xx.
type refusal struct {
	status    int
	code      string // the last part of the problem's type
	detail    string
	expiresAt time.Time
}

func (r *refusal) Error() string {
	return fmt.Sprintf("the gateway refused with %d: %s", r.status, r.detail)
}

// held is a lock as its owner gets it, or as a list shows it.
type held struct {
	Name      string    `json:"name"`
	Token     string    `json:"token,omitempty"`
	Fence     int64     `json:"fence"`
	ExpiresAt time.Time `json:"expires_at"`
}

// do sends body as JSON to uri, and reads the answer into answer unless that is nil.
func (a *api) do(ctx context.Context, method, uri string, body, answer any) error {
	raw, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encoding the request: %w", err)
	}
	if body == nil {
		raw = nil
	}
	r, err := http.NewRequestWithContext(ctx, method, a.base+uri, bytes.NewReader(raw))
	if err != nil {
		return command.Usage(fmt.Errorf("making the request: %w", err))
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if a.tokenFile != "" { // anew each time: whoever writes it may replace it
		token, err := os.ReadFile(a.tokenFile)
		if err != nil {
			return command.Usage(fmt.Errorf("--token-file: %w", err))
		}
		r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	}
	resp, err := a.client.Do(r)
	if err != nil {
		return command.NoAnswer(fmt.Errorf("no gateway answers, start it, or name it with --address, --config or --url: %w", err))
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return command.NoAnswer(fmt.Errorf("the gateway went away in the middle of its answer: %w", err))
	}
	if resp.StatusCode/100 != 2 {
		return refusalOf(resp, b)
	}
	if answer == nil {
		return nil
	}
	if err = json.Unmarshal(b, answer); err != nil {
		return fmt.Errorf("the answer is not that of a gateway's locks, correct the address: %w", err)
	}
	return nil
}

func refusalOf(resp *http.Response, b []byte) *refusal {
	var doc struct {
		Type, Title, Detail string
		ExpiresAt           time.Time `json:"expires_at"`
	}
	r := &refusal{status: resp.StatusCode}
	if json.Unmarshal(b, &doc) == nil {
		r.code, r.detail, r.expiresAt = path.Base(doc.Type), doc.Detail, doc.ExpiresAt
		if r.detail == "" {
			r.detail = doc.Title
		}
	}
	if r.detail == "" {
		r.detail = http.StatusText(resp.StatusCode)
	}
	return r
}

func pathOf(name string) string { return "/locks/" + url.PathEscape(name) }

// isHeld says whether err means that another has the lock.
func isHeld(err error) (*refusal, bool) {
	r, ok := errors.AsType[*refusal](err)
	return r, ok && r.code == "lock-held"
}

// passing says whether what failed may succeed in a moment.
func passing(err error) bool {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.code == "lock-held" || r.status == http.StatusTooManyRequests || r.status >= http.StatusInternalServerError
	}
	return command.Code(err) == command.ExitNoAnswer
}

// acquire takes the lock, and waits for it at most that long; for the gateway too. since is a moment
// before the time to live began.
func (a *api) acquire(ctx context.Context, name string, ttl, wait time.Duration) (l held, since time.Time, err error) {
	end := time.Now().Add(wait)
	for {
		part := max(0, min(time.Until(end), waitOnce)).Truncate(time.Millisecond)
		body := map[string]string{"ttl": unit.Duration(ttl).String()}
		if part > 0 {
			body["wait"] = unit.Duration(part).String()
		}
		since = time.Now()
		once, cancel := context.WithTimeout(ctx, part+answerTime)
		err = a.do(once, http.MethodPost, pathOf(name), body, &l)
		cancel()
		if err == nil && part > 0 && time.Since(since) > ttl/3 { // when it began is not known well enough
			since = time.Now()
			err = a.renew(ctx, l, ttl)
		}
		if err == nil || ctx.Err() != nil || !passing(err) || time.Until(end) < time.Millisecond {
			return l, since, err
		}
		if time.Since(since) >= part { // it waited as it should
			continue
		}
		select {
		case <-time.After(min(time.Second/2+rand.N(time.Second/2), time.Until(end))):
		case <-ctx.Done():
			return l, since, ctx.Err()
		}
	}
}

func (a *api) renew(ctx context.Context, l held, ttl time.Duration) error {
	once, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	err := a.do(once, http.MethodPut, pathOf(l.Name), map[string]string{"token": l.Token, "ttl": unit.Duration(ttl).String()}, nil)
	if r, ok := errors.AsType[*refusal](err); ok && r.status == http.StatusConflict {
		return fmt.Errorf("%w: %s", errLost, r.detail)
	}
	return err
}

// release gives the lock back. The error is errLost if it was lost before.
func (a *api) release(ctx context.Context, l held) error {
	once, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	err := a.do(once, http.MethodDelete, pathOf(l.Name), map[string]string{"token": l.Token}, nil)
	if r, ok := errors.AsType[*refusal](err); ok && (r.status == http.StatusConflict || r.code == "not-found") {
		return fmt.Errorf("%w: %s", errLost, r.detail)
	}
	return err
}

// list is all locks that are held, in the order in which they were acquired.
func (a *api) list(ctx context.Context) ([]held, error) {
	all := []held{}
	for cursor := ""; ; {
		var page struct {
			Items      []held
			NextCursor string `json:"next_cursor"`
		}
		if err := a.do(ctx, http.MethodGet, "/locks?limit=1000&cursor="+url.QueryEscape(cursor), nil, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Items...)
		if cursor = page.NextCursor; cursor == "" {
			return all, nil
		}
	}
}
