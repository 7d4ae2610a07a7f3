package identity

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/httpapi"
	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

const maxLoginBody = 4 << 10

// errBadCredentials is the one answer to a wrong password, an unknown address and a disabled user.
var errBadCredentials = &problem.Error{
	Code: problem.InvalidCredentials, Detail: "The email address or the password is wrong.",
	Header: http.Header{"Www-Authenticate": {`Bearer realm="gatehouse"`}}, // a 401 must have a challenge (RFC 9110 section 15.5.2)
}

type loginRequest struct {
	Email    string `json:"email"`
	Password string `json:"password"`
}

type loginResponse struct {
	Token     string `json:"token"`
	TokenType string `json:"token_type"`
	// ExpiresIn is in seconds (RFC 6749 section 5.1).
	ExpiresIn int64 `json:"expires_in"`
}

// login answers POST /login.
func (s *Service) login(w http.ResponseWriter, r *http.Request) error {
	var in loginRequest
	if err := httpapi.DecodeJSON(w, r, maxLoginBody, &in); err != nil {
		return err
	}
	switch {
	case in.Email == "" || in.Password == "":
		return problem.New(problem.InvalidRequest, "Both email and password must be given.")
	case len(in.Password) > MaxPassword:
		return problem.New(problem.InvalidRequest, "The password must not be longer than %d bytes.", MaxPassword)
	}
	user, err := s.authenticate(r.Context(), in.Email, in.Password)
	if err != nil {
		return err
	}
	token, err := s.signer.Mint(Claims{
		Subject: user.ID, Role: user.Role, Scope: user.Scope,
		Issuer: s.cfg.Issuer, Audience: s.cfg.Audience, TTL: s.cfg.TTL.Std(),
	}, time.Now())
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	return httpapi.WriteJSON(w, http.StatusOK, loginResponse{Token: token, TokenType: "Bearer", ExpiresIn: int64(s.cfg.TTL.Std() / time.Second)})
}

// authenticate finds the user that has these credentials. It takes as long for an unknown address
// as for a wrong password.
func (s *Service) authenticate(ctx context.Context, email, password string) (User, error) {
	c, err := s.users.find(ctx, email)
	unknown := errors.Is(err, ErrNoUser)
	if err != nil && !unknown {
		return User{}, err
	}
	hash := c.hash
	if unknown {
		hash = s.pool.dummy
	}
	match, outdated, err := s.pool.check(ctx, password, hash)
	if err != nil {
		return User{}, err
	}
	if unknown || !match || c.Disabled {
		return User{}, errBadCredentials
	}
	if outdated {
		if err = s.renew(ctx, c, password); err != nil {
			s.log.WarnContext(ctx, "storing a password under new parameters failed", "user", c.ID, "error", err)
		}
	}
	return c.User, nil
}

// renew stores the password under today's parameters.
func (s *Service) renew(ctx context.Context, c credentials, password string) error {
	if err := s.pool.enter(ctx); err != nil {
		return err
	}
	hash, err := HashPassword(password)
	<-s.pool.slots
	if err != nil {
		return err
	}
	return s.users.rehash(ctx, c, hash)
}
