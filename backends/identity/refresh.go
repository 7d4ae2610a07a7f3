package identity

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/httpapi"
	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

type refreshRequest struct {
	RefreshToken string `json:"refresh_token"`
}

// refresh answers POST /refresh.
func (s *Service) refresh(w http.ResponseWriter, r *http.Request) error {
	var in refreshRequest
	if err := httpapi.DecodeJSON(w, r, maxBody, &in); err != nil {
		return err
	}
	if in.RefreshToken == "" {
		return problem.New(problem.InvalidRequest, "The refresh_token must be given.")
	}
	signer, err := s.signing()
	if err != nil {
		return err
	}
	g, revoked, err := s.users.rotate(r.Context(), in.RefreshToken, s.lives, s.revoked.clientRoom() == nil)
	if errors.Is(err, errReused) {
		s.log.WarnContext(r.Context(), "a refresh token was used a second time, its session is ended", "revoked", ids(revoked))
		s.passOn(r.Context(), revoked)
	}
	if err != nil {
		return err
	}
	return s.answer(w, signer, g)
}

// passOn puts the end of a session in force where the answer is not about it.
func (s *Service) passOn(ctx context.Context, revoked []Revocation) {
	if away := s.revoked.committed(ctx, revoked...); away != nil {
		s.log.WarnContext(ctx, "passing on the end of a session", "error", away)
	}
}

func ids(list []Revocation) (ids []string) {
	for _, r := range list {
		ids = append(ids, r.ID)
	}
	return ids
}

type logoutRequest struct {
	RefreshToken string `json:"refresh_token"`
	All          bool   `json:"all"`
}

// logout answers POST /logout. What is not known, or has ended, is logged out as well. Where no more can be revoked
// the session ends all the same, and the answer says that its access tokens hold.
func (s *Service) logout(w http.ResponseWriter, r *http.Request) error {
	in, err := logoutBody(w, r)
	if err != nil {
		return err
	}
	access := bearer(r)
	if in.RefreshToken == "" && access == "" {
		return problem.New(problem.InvalidRequest, "Give the refresh_token, or the access token as Authorization: Bearer, or both.")
	}
	full := s.revoked.clientRoom()
	var revoked []Revocation
	valid := false
	if access != "" {
		list, ok, err := s.endByAccess(r.Context(), access, in.All, full == nil)
		if err != nil {
			return err
		}
		revoked, valid = list, ok
	}
	if in.RefreshToken != "" {
		list, ok, err := s.users.endByRefresh(r.Context(), in.RefreshToken, in.All, full == nil)
		if err != nil {
			return err
		}
		revoked, valid = append(revoked, list...), valid || ok
	}
	if err := s.revoked.committed(r.Context(), revoked...); err != nil {
		return err
	}
	if in.All && !valid {
		return unauthorized("To end all sessions a token is needed that is still valid: log in again.")
	}
	if full != nil {
		return full
	}
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// logoutBody reads the body, which there need not be.
func logoutBody(w http.ResponseWriter, r *http.Request) (in logoutRequest, err error) {
	b, err := httpapi.ReadBody(w, r, maxBody)
	if err != nil || len(b) == 0 {
		return in, err
	}
	r.Body = io.NopCloser(bytes.NewReader(b))
	err = httpapi.DecodeJSON(w, r, maxBody, &in)
	return in, err
}

// endByAccess ends the session of an access token of ours, or all of its user's. A token that has expired
// ends its own session still. A token without a session is revoked itself. Without room sessions end and nothing is
// revoked.
func (s *Service) endByAccess(ctx context.Context, token string, all, room bool) (revoked []Revocation, valid bool, err error) {
	claims, ok := s.verify(token)
	if !ok {
		return nil, false, nil
	}
	expires, now := claims.ExpiresAt.Time, s.now()
	gone := s.Revoked(claims.Issuer, claims.ID, claims.Session, claims.Subject, claims.IssuedAt.UnixMilli())
	valid = !gone && now.Before(expires)
	if all && valid {
		revoked, err = s.users.logout(ctx, byID(claims.Subject), room)
		if errors.Is(err, ErrNoUser) { // a token that a command made
			if !room {
				return nil, valid, nil
			}
			var r Revocation
			r, err = s.revoke(ctx, newRevocation(KindSubject, "", claims.Subject, now.UnixMilli(), now.Add(MaxTTL).UnixMilli()))
			revoked = []Revocation{r}
		}
		return revoked, valid, err
	}
	if claims.Session != "" {
		if list, found, err := s.users.endByID(ctx, claims.Session, room); err != nil || found {
			return list, valid, err
		}
	}
	if !valid || !room {
		return nil, valid, nil
	}
	r, err := s.revoke(ctx, newRevocation(KindToken, claims.Issuer, claims.ID, 0, expires.Add(leeway).UnixMilli()))
	return []Revocation{r}, true, err
}

// accessClaims are what is read of an access token.
type accessClaims struct {
	jwt.RegisteredClaims
	Session string `json:"sid"`
}

// verify reads a token that one of our keys signed for us. It may have expired.
func (s *Service) verify(token string) (c accessClaims, ok bool) {
	signer, err := s.keys.Get()
	if err != nil || len(token) > maxToken {
		return c, false
	}
	parsed, err := jwt.NewParser(jwt.WithoutClaimsValidation()).ParseWithClaims(token, &c, func(t *jwt.Token) (any, error) {
		for _, k := range signer.keys {
			if t.Header["kid"] == k.kid && t.Method.Alg() == k.method.Alg() {
				k.version.Used(s.now())
				return k.verify, nil
			}
		}
		return nil, jwt.ErrTokenUnverifiable
	})
	ok = err == nil && parsed.Valid && c.Issuer == s.cfg.Issuer && len(c.Audience) == 1 && c.Audience[0] == s.cfg.Audience &&
		c.ID != "" && c.Subject != "" && c.ExpiresAt != nil && c.IssuedAt != nil
	return c, ok
}

const maxToken = 8 << 10

// bearer is the token of the header Authorization, "" without one.
func bearer(r *http.Request) string {
	scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// leeway is how long after its exp a token may still be accepted by someone: revocations outlast it.
const leeway = time.Hour
