package vault

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/gatehouse-proxy/gatehouse/internal/secret/remote"
)

const (
	maxRedirects = 3
	// Statuses of Vault's own.
	standbyRecovering = 472
	standby           = 473
)

// newClient is a client that trusts the certificates in the file ca, or the system's.
func newClient(ca string) (*http.Client, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("reading the certificates of ca: %w", err)
		}
		transport.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("the file %s of ca holds no certificate in PEM", ca)
		}
	}
	return &http.Client{Transport: transport, CheckRedirect: stay}, nil
}

// stay refuses to follow elsewhere: the token would go along.
func stay(r *http.Request, via []*http.Request) error {
	if r.URL.Host != via[0].URL.Host || r.URL.Scheme != via[0].URL.Scheme {
		return &redirectError{r.URL}
	}
	if len(via) >= maxRedirects {
		return errors.New("it redirects in a circle")
	}
	return nil
}

// redirectError is of an answer that leads to another server.
type redirectError struct{ to *url.URL }

// Error names the server alone: the rest of the URL may hold anything.
func (e *redirectError) Error() string {
	return fmt.Sprintf("it redirects to %.200s, where the token is not sent: give the address of the active node, or of what stands before all", e.to.Host)
}

// segments is a path of Vault as a path of a URL.
func segments(path string) string {
	parts := strings.Split(path, "/")
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	return strings.Join(parts, "/")
}

// sentences are those of Vault that are shown. Others are not: they may repeat what was sent.
var sentences = []string{"Vault is sealed", "invalid role or secret ID", "invalid role ID", "invalid secret id", "permission denied", "invalid token", "no handler for route", "service account name not authorized", "namespace not authorized"}

// answer is an answer of Vault that is no success.
type answer struct {
	status int
	text   []byte
}

// Error names the status.
func (a *answer) Error() string { return fmt.Sprintf("Vault answered %d", a.status) }

// say adds what to do, and Vault's own sentence if nothing else is in it.
func (a *answer) say(what string) error {
	for _, sentence := range a.errors() {
		if slices.Contains(sentences, sentence) {
			return fmt.Errorf("%w (%q): %s", a, sentence, what)
		}
	}
	return fmt.Errorf("%w: %s", a, what)
}

func (a *answer) errors() []string {
	var body struct {
		Errors []string `json:"errors"`
	}
	_ = json.Unmarshal(a.text, &body) // what is no JSON has none
	return body.Errors
}

// advise says what to do about a status that says nothing of what was asked for.
func (a *answer) advise() error {
	switch {
	case a.status == http.StatusServiceUnavailable:
		return a.say("it is sealed, in maintenance or not initialised: unseal it with vault operator unseal")
	case a.status == http.StatusTooManyRequests:
		return a.say("a rate limit quota is used up: raise it, or poll less often")
	case a.status == http.StatusPreconditionFailed:
		return a.say("this node is behind the others: the next read tries again")
	case a.status == standby || a.status == standbyRecovering:
		return a.say("this node is a standby that forwards nothing: give the address of the active node, or of what stands before all")
	case a.status >= http.StatusInternalServerError:
		return a.say("it has failed, see Vault's log")
	}
	return a.say("which is no answer to such a request, check the address and the path")
}

// call sends a request to path below /v1/ and decodes the answer into into. A body of nil is none. An
// answer that is no success is an *answer.
func (s *store) call(ctx context.Context, method, path, token string, body, into any) error {
	var content io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("encoding the request: %w", err)
		}
		content = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(ctx, method, s.base+"/v1/"+path, content)
	if err != nil {
		return fmt.Errorf("making a request of the address: %w", err)
	}
	r.Header.Set("X-Vault-Request", "true") // an agent may demand it
	if s.config.Namespace != "" {
		r.Header.Set("X-Vault-Namespace", s.config.Namespace)
	}
	if token != "" {
		r.Header.Set("X-Vault-Token", token)
	}
	resp, err := s.client.Do(r)
	if err != nil {
		return s.unanswered(ctx, err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(resp.Body, remote.MaxBody+1))
	switch {
	case err != nil:
		return s.unanswered(ctx, err)
	case len(text) > remote.MaxBody:
		return fmt.Errorf("the answer of Vault at %s is larger than %d MiB, which no secret is: check the address and the path", s.base, remote.MaxBody>>20)
	case resp.StatusCode != http.StatusOK:
		return &answer{resp.StatusCode, text}
	}
	// The decoder's own sentence may hold a part of a value.
	if json.Unmarshal(text, into) != nil {
		return fmt.Errorf("the answer at %s is not Vault's JSON: check the address, and what stands between", s.base)
	}
	return nil
}

// unanswered is the error of a request without an answer. Its URL is left out: that of a redirect is the
// server's text.
func (s *store) unanswered(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("Vault at %s has not answered in time: %w", s.base, ctx.Err()) //nolint:staticcheck // Vault is a name
	}
	if to, ok := errors.AsType[*redirectError](err); ok {
		return fmt.Errorf("Vault at %s cannot be asked: %w", s.base, to) //nolint:staticcheck // Vault is a name
	}
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	return fmt.Errorf("Vault at %s does not answer, check the address and that it runs: %w", s.base, err) //nolint:staticcheck // Vault is a name
}
