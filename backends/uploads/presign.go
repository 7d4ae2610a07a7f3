package uploads

import (
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/httpapi"
	"github.com/gatehouse-proxy/gatehouse/backends/internal/objects"
	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

const (
	// maxBody is the largest request body of the API in bytes.
	maxBody = 16 << 10
	// maxOpen is how many uploads of one owner may be waiting for their bytes at once.
	maxOpen = 50
	// maxOpenApp is the same for those of the app, which have no owner.
	maxOpenApp = 1000
)

type presignRequest struct {
	Filename    string `json:"filename"`
	ContentType string `json:"content_type"`
	Size        *int64 `json:"size"`
	// Owner is for whom a service or an operator asks. Default: for itself.
	Owner string `json:"owner"`
}

// presigned tells the client what to send: method, url, exactly these headers and exactly size bytes.
type presigned struct {
	ID        string            `json:"id"`
	Key       string            `json:"key"`
	Method    string            `json:"method"`
	URL       string            `json:"url"`
	Headers   map[string]string `json:"headers"`
	ExpiresAt time.Time         `json:"expires_at"`
}

// presign answers POST /uploads/presign.
func (s *Service) presign(w http.ResponseWriter, r *http.Request) error {
	var in presignRequest
	if err := httpapi.DecodeJSON(w, r, maxBody, &in); err != nil {
		return err
	}
	base, err := s.base(r)
	if err != nil {
		return err
	}
	c := s.caller(r)
	if err = c.Check(); err != nil {
		return err
	}
	owner, err := httpapi.OwnerOf(c, in.Owner)
	if err != nil {
		return err
	}
	f, err := s.decide(in, owner, s.Now())
	if err != nil {
		return err
	}
	stored, err := s.DB.Reserve(1, 0)
	if err != nil {
		return err
	}
	defer stored()
	if err = s.DB.InTx(r.Context(), func(tx *sql.Tx) error {
		if err := s.DB.LockInTx(r.Context(), tx, "uploads of "+f.owner); err != nil { // or two count the same
			return err
		}
		n, first, err := openURLs(r.Context(), tx, f.owner, f.created)
		if err != nil {
			return err
		}
		if n >= maxOpenOf(f.owner) {
			return tooManyOpen(n, first.Sub(f.created))
		}
		if err = s.withinQuota(r.Context(), tx, f); err != nil {
			return err
		}
		return insert(r.Context(), tx, f)
	}); err != nil {
		return err
	}
	u, headers := s.Store.PresignPut(f.created, base, f.key, objects.PutSpec{ContentType: f.contentType, Size: f.size}, s.expires)
	w.Header().Set("Location", "/uploads/"+f.id)
	w.Header().Set("Cache-Control", "no-store")
	return httpapi.WriteJSON(w, http.StatusCreated, presigned{
		ID: f.id, Key: f.key, Method: http.MethodPut, URL: u, Headers: headers, ExpiresAt: f.expires.UTC(),
	})
}

// decide checks what the client wants to upload and makes the row of it.
func (s *Service) decide(in presignRequest, owner string, now time.Time) (*file, error) {
	contentType, ok := s.contentType(in.ContentType)
	if !ok {
		e := problem.New(problem.UnsupportedMediaType, "content_type must be one of the allowed media types, without parameters but the charset of a text.")
		e.Extra = map[string]any{"allowed": s.allow}
		return nil, e
	}
	media, _ := mediaType(contentType)
	if why := badFilename(in.Filename, media); why != "" {
		return nil, problem.New(problem.InvalidRequest, "filename %s.", why)
	}
	if in.Size == nil || *in.Size < s.minSize {
		return nil, problem.New(problem.InvalidRequest, "size must be the number of bytes of the file, at least %d.", s.minSize)
	}
	if *in.Size > s.maxSize {
		e := problem.New(problem.ContentTooLarge, "The file must not be larger than %d bytes.", s.maxSize)
		e.Extra = map[string]any{"max_size": s.maxSize}
		return nil, e
	}
	return &file{
		id: rand.Text(), owner: owner, key: newKey(owner, in.Filename, now), filename: in.Filename, contentType: contentType,
		size: *in.Size, state: pending, created: now, expires: now.Truncate(time.Second).Add(s.expires), // the URL counts in seconds
	}, nil
}

func maxOpenOf(owner string) int {
	if owner == "" {
		return maxOpenApp
	}
	return maxOpen
}

// withinQuota says why the owner may not have the file as well.
func (s *Service) withinQuota(ctx context.Context, tx *sql.Tx, f *file) error {
	if s.quota == 0 || f.owner == "" {
		return nil
	}
	used, err := bytesOf(ctx, tx, f.owner, f.created)
	if err != nil {
		return err
	}
	if used+f.size <= s.quota {
		return nil
	}
	e := problem.New(problem.QuotaExceeded, "Your uploads have %d bytes of %d, so this file does not fit; delete some, which counts when their URLs have expired.", used, s.quota)
	e.Extra = map[string]any{"quota": s.quota, "used": used}
	return e
}

func tooManyOpen(n int, wait time.Duration) error {
	e := problem.New(problem.QuotaExceeded, "%d uploads are waiting for their bytes; send and confirm some of them, or wait until they expire.", n)
	e.RetryAfter = max(wait, time.Second)
	return e
}

// caller is who the gateway says the client is.
func (s *Service) caller(r *http.Request) service.Caller { return s.authority.Caller(r, bucket) }

// base is the scheme and host of presigned URLs: public_url, or those that the client has used now.
// The signature covers the host, and the URL goes back to whoever sent it, so a false Host or
// X-Forwarded-Proto spoils nobody's URL but the sender's own. The latter needs no trusted proxy for
// the same reason, and it can only turn http into https.
func (s *Service) base(r *http.Request) (*url.URL, error) {
	if s.public != nil {
		return s.public, nil
	}
	scheme := "http"
	if r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https" {
		scheme = "https"
	}
	u, err := hostURL(scheme, r.Host)
	if err != nil {
		return nil, problem.New(problem.InvalidRequest, "The Host header is not a host.").Because(err)
	}
	return u, nil
}

// hostURL is scheme and host as a URL. The scheme's own port is left out, as clients do in Host.
func hostURL(scheme, host string) (*url.URL, error) {
	u, err := url.Parse(scheme + "://" + host)
	if err != nil {
		return nil, err
	}
	if u.Host != host || u.Hostname() == "" || u.User != nil {
		return nil, fmt.Errorf("%s is not a host", strconv.QuoteToASCII(host))
	}
	if port := u.Port(); scheme == "http" && port == "80" || scheme == "https" && port == "443" {
		u.Host = strings.TrimSuffix(u.Host, ":"+port)
	}
	return u, nil
}

func parsePublicURL(raw string) (*url.URL, error) {
	if raw == "" {
		return nil, nil
	}
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, fmt.Errorf("public_url must be a scheme and a host alone, such as https://files.example.com, not %q", raw)
	}
	return hostURL(u.Scheme, u.Host)
}
