package jwtauth

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// get fetches the set, for an issuer after its metadata.
func (r *remote) get(ctx context.Context) (*remoteState, []byte, error) {
	at := r.url
	if r.discover {
		var err error
		if at, err = r.discovered(ctx); err != nil {
			return nil, nil, err
		}
	}
	body, header, err := r.read(ctx, at, "application/jwk-set+json, application/json")
	if err != nil {
		return nil, nil, err
	}
	set, err := parseJWKS(body, false)
	if err != nil {
		return nil, nil, err
	}
	now, fresh := r.now(), freshness(header)
	return &remoteState{
		set: set.counted(r.String()), sum: sha256.Sum256(body), fetched: now,
		refresh: now.Add(fresh - rand.N(fresh/10)), fresh: now.Add(fresh),
	}, body, nil
}

// errStatus is an answer that is not 200.
type errStatus int

func (e errStatus) Error() string { return fmt.Sprintf("the server answered %d", int(e)) }

// read makes one request, which has a time of its own.
func (r *remote) read(ctx context.Context, at, accept string) ([]byte, http.Header, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Accept", accept)
	req.Header.Set("User-Agent", "Gatehouse")
	resp, err := r.client.Do(req)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err // without the URL, whose query may be secret
		}
		return nil, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, nil, errStatus(resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxJWKS+1))
	if err != nil {
		return nil, nil, fmt.Errorf("reading the answer: %w", err)
	}
	return body, resp.Header, nil
}

// discovered is where the issuer's metadata say that its keys are (OpenID Connect Discovery 1.0
// section 4, or RFC 8414 section 3 if there is no such document).
func (r *remote) discovered(ctx context.Context) (string, error) {
	var failed error
	for _, at := range metadataURLs(r.url) {
		body, _, err := r.read(ctx, at, "application/json")
		if err == nil {
			return keysURL(body, r.url, r.insecure)
		}
		failed = errors.Join(failed, fmt.Errorf("reading the issuer's metadata: %w", err))
		if status, answered := errors.AsType[errStatus](err); !answered || status >= http.StatusInternalServerError {
			break
		}
	}
	return "", failed
}

func metadataURLs(issuer string) []string {
	issuer = strings.TrimSuffix(issuer, "/")
	urls := []string{issuer + "/.well-known/openid-configuration"}
	if u, err := url.Parse(issuer); err == nil {
		u.Path, u.RawPath = "/.well-known/oauth-authorization-server"+u.Path, ""
		urls = append(urls, u.String())
	}
	return urls
}

// keysURL reads an issuer's metadata. They must be those of the issuer that is configured, to the
// letter: otherwise anyone who can answer for a path of a shared host could name keys for another.
func keysURL(body []byte, issuer string, insecure bool) (string, error) {
	if len(body) > maxJWKS {
		return "", fmt.Errorf("the issuer's metadata are larger than %d bytes", maxJWKS)
	}
	list, err := members(nil, bytes.TrimSpace(body))
	if err != nil {
		return "", fmt.Errorf("the issuer's metadata cannot be read: %w", err)
	}
	doc := claims{members: list}
	if got, _ := doc.str("issuer"); got != issuer {
		return "", fmt.Errorf("the metadata are of the issuer %q, not of %s", got, issuer)
	}
	at, ok := doc.str("jwks_uri")
	if !ok {
		return "", errors.New("the issuer's metadata have no jwks_uri")
	}
	if err = checkURL("jwks_uri", at, insecure); err != nil {
		return "", err
	}
	return at, nil
}

// kept is a set as it lies in the data directory.
type kept struct {
	URL     string          `json:"url"`
	Fetched time.Time       `json:"fetched"`
	Fresh   time.Time       `json:"fresh"`
	Keys    json.RawMessage `json:"keys"`
}

func (r *remote) file() string {
	sum := sha256.Sum256([]byte(r.url))
	return filepath.Join(*r.dir.Load(), "jwks", hex.EncodeToString(sum[:])+".json")
}

// keep writes the set down, so that a start without the server has keys. It replaces the file in one
// step; a machine that stops in between finds the old one, or none.
func (r *remote) keep(s *remoteState, body []byte) {
	if r.dir.Load() == nil {
		return
	}
	if err := r.write(kept{r.url, s.fetched, s.fresh, body}); err != nil {
		r.log.Load().Warn("the keys cannot be kept for the next start", "url", r.String(), "error", err)
	}
}

func (r *remote) write(k kept) error {
	raw, err := json.Marshal(k)
	if err != nil {
		return fmt.Errorf("encoding the keys: %w", err)
	}
	file := r.file()
	if err = os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-*") // with mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

// restore reads what keep has written. What cannot be used is as if it were not there.
func (r *remote) restore() *remoteState {
	if r.dir.Load() == nil {
		return nil
	}
	raw, err := os.ReadFile(r.file())
	if err != nil {
		return nil
	}
	var k kept
	if json.Unmarshal(raw, &k) != nil || k.URL != r.url || k.Fetched.After(r.now()) || k.Fresh.Sub(k.Fetched) > refreshMost {
		return nil
	}
	set, err := parseJWKS(k.Keys, false)
	if err != nil {
		return nil
	}
	return &remoteState{
		set: set.counted(r.String()), sum: sha256.Sum256(k.Keys), fetched: k.Fetched,
		refresh: k.Fresh.Add(-rand.N(refreshLeast / 10)), fresh: k.Fresh,
	}
}

// freshness is max-age of Cache-Control, kept between 5 min and 24 h; 10 min where it is not given.
func freshness(h http.Header) time.Duration {
	for directive := range strings.SplitSeq(strings.Join(h.Values("Cache-Control"), ","), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
		if !strings.EqualFold(name, "max-age") {
			continue
		}
		seconds, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 31)
		if err != nil {
			continue
		}
		return min(max(time.Duration(seconds)*time.Second, refreshLeast), refreshMost)
	}
	return refreshEvery
}
