package locks

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/httpapi"
	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

const (
	maxBody  = 4 << 10 // bytes of a request
	maxToken = 256     // bytes of a token that a client sends
)

// view is a lock as others see it: without the token.
type view struct {
	Name      string     `json:"name"`
	Held      bool       `json:"held"`
	Fence     int64      `json:"fence,omitempty"`
	ExpiresAt *time.Time `json:"expires_at,omitempty"`
}

func viewOf(l Lock) view { return view{l.Name, true, l.Fence, &l.ExpiresAt} }

// ownedView is a lock as its owner sees it.
type ownedView struct {
	Name      string    `json:"name"`
	Token     string    `json:"token"`
	Fence     int64     `json:"fence"`
	ExpiresAt time.Time `json:"expires_at"`
}

// acquire answers POST /locks/{name} {ttl, wait}: 200, or 409 lock-held with Retry-After while another
// holds it. With wait, a duration up to 30 s, it answers as soon as the lock is the caller's, and 409 only
// after that time, or at once if too many wait already. Who waits first is first; whoever does not wait
// may come between them.
func (s *Service) acquire(w http.ResponseWriter, r *http.Request) error {
	name, err := nameOf(r)
	if err != nil {
		return err
	}
	var body struct {
		TTL  json.RawMessage `json:"ttl"`
		Wait json.RawMessage `json:"wait"`
	}
	if err = decode(w, r, &body); err != nil {
		return err
	}
	ttl, err := s.ttl(body.TTL)
	if err != nil {
		return err
	}
	wait, err := duration(body.Wait, 0, "wait", 0, maxWait)
	if err != nil {
		return err
	}
	leave := func() {}
	if wait > 0 { // or a server that bounds the reading of requests would take the caller for gone
		_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
		leave, err = s.polls.Begin(w, r, s.authority.Caller(r, "locks"))
		if err != nil {
			return err
		}
	}
	token := newToken()
	l, err := s.take(r.Context(), name, ownerOf(token), ttl, wait)
	leave()
	if err != nil {
		return refusal(err, l, s.now())
	}
	return httpapi.WriteJSON(w, http.StatusOK, ownedView{l.Name, token, l.Fence, l.ExpiresAt})
}

// renew answers PUT /locks/{name} {token, ttl}: 200 with the same token and fence, or 409 when the
// lock is not the caller's any more: lock-held while another holds it, conflict otherwise.
func (s *Service) renew(w http.ResponseWriter, r *http.Request) error {
	name, err := nameOf(r)
	if err != nil {
		return err
	}
	var body struct {
		Token string          `json:"token"`
		TTL   json.RawMessage `json:"ttl"`
	}
	if err = decode(w, r, &body); err != nil {
		return err
	}
	if err = checkToken(body.Token); err != nil {
		return err
	}
	ttl, err := s.ttl(body.TTL)
	if err != nil {
		return err
	}
	now := s.now()
	l, err := s.store.Renew(r.Context(), name, ownerOf(body.Token), now, ttl)
	switch {
	case errors.Is(err, ErrNotHeld):
		return problem.New(problem.Conflict, "The lock has expired or was released: acquire it again.")
	case err != nil:
		return refusal(err, l, now)
	}
	return httpapi.WriteJSON(w, http.StatusOK, ownedView{l.Name, body.Token, l.Fence, l.ExpiresAt})
}

// release answers DELETE /locks/{name} {token}: 204; 404 when nobody holds the lock, which a client
// that retries a release takes as done; 409 lock-held when another holds it, so the caller had lost
// it before its work was over. A client that cannot send a body with DELETE gives ?token=.
func (s *Service) release(w http.ResponseWriter, r *http.Request) error {
	name, err := nameOf(r)
	if err != nil {
		return err
	}
	var body struct {
		Token string `json:"token"`
	}
	if err = decode(w, r, &body); err != nil {
		return err
	}
	if q := r.URL.Query(); q.Has("token") {
		if body.Token != "" && body.Token != q.Get("token") {
			return problem.New(problem.InvalidRequest, "The token in the body and the one in the query differ, send one.")
		}
		body.Token = q.Get("token")
	}
	if err = checkToken(body.Token); err != nil {
		return err
	}
	now := s.now()
	if l, err := s.store.Release(r.Context(), name, ownerOf(body.Token), now); err != nil {
		return refusal(err, l, now)
	}
	s.waiters.freed(name)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// get answers GET /locks/{name}: 200 also for a lock that nobody holds.
func (s *Service) get(w http.ResponseWriter, r *http.Request) error {
	name, err := nameOf(r)
	if err != nil {
		return err
	}
	l, err := s.store.Get(r.Context(), name, s.now())
	switch {
	case errors.Is(err, ErrNotHeld):
		return httpapi.WriteJSON(w, http.StatusOK, view{Name: name})
	case err != nil:
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, viewOf(l))
}

// list answers GET /locks: the locks that are held, in the order in which they were acquired.
func (s *Service) list(w http.ResponseWriter, r *http.Request) error {
	limit, after, err := httpapi.NumberedPageOf(r, 0)
	if err != nil {
		return err
	}
	locks, err := s.store.List(r.Context(), after, limit+1, s.now())
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, httpapi.PageFrom(locks, limit, func(l Lock) string { return strconv.FormatInt(l.Fence, 10) }, viewOf))
}

// refusal is the problem that an error of the store stands for.
func refusal(err error, other Lock, now time.Time) error {
	switch {
	case errors.Is(err, ErrHeld):
		e := problem.New(problem.LockHeld, "Another owner holds the lock until %s.", other.ExpiresAt.Format(time.RFC3339Nano))
		e.Extra = map[string]any{"expires_at": other.ExpiresAt}
		e.RetryAfter = max(other.ExpiresAt.Sub(now), time.Millisecond)
		return e
	case errors.Is(err, ErrNotHeld):
		return problem.New(problem.NotFound, "Nobody holds the lock: it has expired, was released or was never acquired.")
	}
	return err
}

// decode reads a JSON body that may be missing.
func decode(w http.ResponseWriter, r *http.Request, v any) error {
	b, err := httpapi.ReadBody(w, r, maxBody)
	if err != nil {
		return err
	}
	if len(bytes.TrimSpace(b)) == 0 {
		return nil
	}
	r.Body = io.NopCloser(bytes.NewReader(b))
	return httpapi.DecodeJSON(w, r, maxBody, v)
}

// ttl reads the time to live; none is 30 s, or max_ttl if that is shorter.
func (s *Service) ttl(raw json.RawMessage) (time.Duration, error) {
	return duration(raw, min(defaultTTL, s.maxTTL), "ttl", minTTL, s.maxTTL)
}

// duration reads the member of that name within its bounds; none is without.
func duration(raw json.RawMessage, without time.Duration, name string, least, most time.Duration) (time.Duration, error) {
	if raw == nil {
		return without, nil
	}
	var d unit.Duration
	if err := json.Unmarshal(raw, &d); err != nil || d.Std() < least || d.Std() > most {
		return 0, problem.New(problem.InvalidRequest, `%s must be a duration from %s to %s, such as "30s".`, name, unit.Duration(least), unit.Duration(most)).Because(err)
	}
	return d.Std(), nil
}

func checkToken(token string) error {
	switch {
	case token == "":
		return problem.New(problem.InvalidRequest, "token is required, as it was given with the lock.")
	case len(token) > maxToken:
		return problem.New(problem.InvalidRequest, "token must not be longer than %d bytes.", maxToken)
	}
	return nil
}

// newToken is 128 random bits.
func newToken() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// ownerOf is what the store keeps of a token: a copy of the database proves nothing.
func ownerOf(token string) string {
	h := sha256.Sum256([]byte(token))
	return hex.EncodeToString(h[:])
}
