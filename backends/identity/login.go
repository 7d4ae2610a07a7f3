package identity

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/httpapi"
	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

const (
	maxBody = 4 << 10
	// changes is how often a login begins anew because the user changes meanwhile.
	changes = 3
)

// errBadCredentials is the one answer to a wrong password, an unknown address and a disabled user.
var errBadCredentials = unauthorized("The email address or the password is wrong.")

// unauthorized is a 401 with the challenge that it must have (RFC 9110 section 15.5.2).
func unauthorized(detail string) *problem.Error {
	return &problem.Error{Code: problem.InvalidCredentials, Detail: detail, Header: http.Header{"Www-Authenticate": {`Bearer realm="gatehouse"`}}}
}

type loginRequest struct {
	Email    string `json:"email"`
	Password string `json:"password"`
}

// tokensResponse is the answer to a login and to a refresh. Times are in seconds (RFC 6749 section 5.1).
type tokensResponse struct {
	Token            string `json:"token"`
	TokenType        string `json:"token_type"`
	ExpiresIn        int64  `json:"expires_in"`
	RefreshToken     string `json:"refresh_token"`
	RefreshExpiresIn int64  `json:"refresh_expires_in"`
}

// login answers POST /login. It begins a session; if the user then has more than 100, the one that was refreshed
// longest ago ends with its access tokens, as by a logout.
func (s *Service) login(w http.ResponseWriter, r *http.Request) error {
	var in loginRequest
	if err := httpapi.DecodeJSON(w, r, maxBody, &in); err != nil {
		return err
	}
	switch {
	case in.Email == "" || in.Password == "":
		return problem.New(problem.InvalidRequest, "Both email and password must be given.")
	case len(in.Password) > MaxPassword:
		return problem.New(problem.InvalidRequest, "The password must not be longer than %d bytes.", MaxPassword)
	}
	signer, err := s.signing()
	if err != nil {
		return err
	}
	attempt, err := s.attempts.begin(r.Context(), in.Email, clientAddr(r), s.now())
	if err != nil {
		return err
	}
	defer attempt.end()
	g, err := s.open(r.Context(), in)
	if errors.Is(err, errBadCredentials) {
		// Where this cannot be stored a right password opens nothing either, so nothing was learned.
		if away := attempt.fail(r.Context(), s.now()); away != nil {
			return away
		}
	}
	if err != nil {
		return err
	}
	return s.answer(w, signer, g)
}

// open begins a session for credentials.
func (s *Service) open(ctx context.Context, in loginRequest) (g grant, err error) {
	for range changes {
		c, err := s.authenticate(ctx, in.Email, in.Password)
		if err != nil {
			return g, err
		}
		g, revoked, err := s.users.start(ctx, c, s.lives, s.revoked.clientRoom)
		if errors.Is(err, errChanged) {
			continue
		}
		if err == nil && len(revoked) > 0 {
			s.passOn(ctx, revoked)
		}
		return g, err
	}
	return g, &problem.Error{Code: problem.Unavailable, Detail: "The user is being changed right now, try again in a second.", RetryAfter: time.Second}
}

// answer gives out the tokens of a session.
func (s *Service) answer(w http.ResponseWriter, signer *Signer, g grant) error {
	token, err := signer.Mint(Claims{
		Subject: g.user.ID, Role: g.user.Role, Scope: g.user.Scope, Session: g.session, AuthTime: g.authTime,
		Issuer: s.cfg.Issuer, Audience: s.cfg.Audience, TTL: s.lives.access,
	}, g.issued)
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	return httpapi.WriteJSON(w, http.StatusOK, tokensResponse{
		Token: token, TokenType: "Bearer", ExpiresIn: int64(s.lives.access / time.Second),
		RefreshToken: g.refresh, RefreshExpiresIn: int64(s.lives.refresh / time.Second),
	})
}

// clientAddr is whom a request comes from: as the gateway says, or the peer.
func clientAddr(r *http.Request) netip.Addr {
	host := r.Header.Get(service.ClientIPHeader)
	if host == "" {
		var err error
		if host, _, err = net.SplitHostPort(r.RemoteAddr); err != nil {
			host = r.RemoteAddr
		}
	}
	addr, _ := netip.ParseAddr(host) // those who have none are counted together
	return addr
}

// authenticate finds the user that has these credentials. It takes as long for an unknown address
// as for a wrong password.
func (s *Service) authenticate(ctx context.Context, email, password string) (credentials, error) {
	c, err := s.users.find(ctx, email)
	unknown := errors.Is(err, ErrNoUser)
	if err != nil && !unknown {
		return c, err
	}
	hash := c.hash
	if unknown {
		hash = s.pool.dummy
	}
	match, outdated, err := s.pool.check(ctx, password, hash)
	if err != nil {
		return c, err
	}
	if unknown || !match || c.Disabled {
		return c, errBadCredentials
	}
	if outdated {
		if err = s.renew(ctx, c, password); err != nil {
			s.log.WarnContext(ctx, "storing a password under new parameters failed", "user", c.ID, "error", err)
		}
	}
	return c, nil
}

// renew stores the password under today's parameters.
func (s *Service) renew(ctx context.Context, c credentials, password string) error {
	hash, err := s.pool.hash(ctx, password)
	if err != nil {
		return err
	}
	return s.users.rehash(ctx, c, hash)
}
