package identity

import (
	"context"
	"database/sql"
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/httpapi"
	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

// manageError is an error of the users as one for the client.
func manageError(err error) error {
	var bad invalid
	switch {
	case errors.Is(err, ErrNoUser):
		return problem.New(problem.NotFound, "There is no user with this id.")
	case errors.Is(err, ErrUserExists):
		return problem.New(problem.Conflict, "A user with this email address is there already.")
	case errors.As(err, &bad):
		first, size := utf8.DecodeRuneInString(string(bad))
		return problem.New(problem.InvalidRequest, "%c%s.", unicode.ToUpper(first), string(bad)[size:])
	}
	return err
}

func (s *Service) listUsers(w http.ResponseWriter, r *http.Request) error {
	limit, cursor, err := httpapi.PageOf(r)
	if err != nil {
		return err
	}
	query, args := `SELECT `+userColumns+` FROM identity_users WHERE id > $1 `, []any{cursor, limit + 1}
	if email := r.URL.Query().Get("email"); email != "" {
		query += `AND email_key = $3 `
		args = append(args, emailKey(email))
	}
	users, err := s.users.list(r.Context(), query+`ORDER BY id LIMIT $2`, args...)
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, httpapi.PageFrom(users, limit, func(u User) string { return u.ID }, httpapi.Itself))
}

type addRequest struct {
	Email    string `json:"email"`
	Password string `json:"password"`
	Role     string `json:"role"`
	Scope    string `json:"scope"`
}

func (s *Service) addUser(w http.ResponseWriter, r *http.Request) error {
	var in addRequest
	if err := httpapi.DecodeJSON(w, r, maxBody, &in); err != nil {
		return err
	}
	for _, err := range []error{validateEmail(in.Email), validateGrants(in.Role, in.Scope), validatePassword(in.Password)} {
		if err != nil {
			return manageError(err)
		}
	}
	hash, err := s.pool.hash(r.Context(), in.Password)
	if err != nil {
		return err
	}
	user, err := s.users.add(r.Context(), in.Email, hash, in.Role, in.Scope)
	if err != nil {
		return manageError(err)
	}
	w.Header().Set("Location", "/users/"+user.ID)
	return httpapi.WriteJSON(w, http.StatusCreated, user)
}

func (s *Service) getUser(w http.ResponseWriter, r *http.Request) error {
	user, err := s.users.get(r.Context(), r.PathValue("id"))
	if err != nil {
		return manageError(err)
	}
	return httpapi.WriteJSON(w, http.StatusOK, user)
}

type changeRequest struct {
	Role     *string `json:"role"`
	Scope    *string `json:"scope"`
	Disabled *bool   `json:"disabled"`
	Password *string `json:"password"`
}

func (s *Service) changeUser(w http.ResponseWriter, r *http.Request) error {
	var in changeRequest
	if err := httpapi.DecodeJSON(w, r, maxBody, &in); err != nil {
		return err
	}
	if in == (changeRequest{}) {
		return problem.New(problem.InvalidRequest, "Give what is to be changed: role, scope, disabled or password.")
	}
	c := Change(in)
	if err := c.validate(); err != nil {
		return manageError(err)
	}
	hash := ""
	if in.Password != nil {
		var err error
		if hash, err = s.pool.hash(r.Context(), *in.Password); err != nil {
			return err
		}
	}
	user, revoked, err := s.users.change(r.Context(), byID(r.PathValue("id")), c, hash)
	if err != nil {
		return manageError(err)
	}
	if err = s.revoked.committed(r.Context(), revoked...); err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, user)
}

func (s *Service) deleteUser(w http.ResponseWriter, r *http.Request) error {
	revoked, err := s.users.delete(r.Context(), byID(r.PathValue("id")))
	return s.revokedAll(w, r, revoked, err)
}

func (s *Service) endSessions(w http.ResponseWriter, r *http.Request) error {
	revoked, err := s.users.logout(r.Context(), byID(r.PathValue("id")), true)
	return s.revokedAll(w, r, revoked, err)
}

// revokedAll answers what revoked something and has nothing to show.
func (s *Service) revokedAll(w http.ResponseWriter, r *http.Request, revoked []Revocation, err error) error {
	if err != nil {
		return manageError(err)
	}
	if err = s.revoked.committed(r.Context(), revoked...); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Service) listSessions(w http.ResponseWriter, r *http.Request) error {
	limit, cursor, err := httpapi.PageOf(r)
	if err != nil {
		return err
	}
	id := r.PathValue("id")
	if _, err = s.users.get(r.Context(), id); err != nil {
		return manageError(err)
	}
	list, err := s.users.sessions(r.Context(), id, cursor, limit+1)
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, httpapi.PageFrom(list, limit, func(s Session) string { return s.ID }, httpapi.Itself))
}

// revocationView is a revocation as it is shown.
type revocationView struct {
	ID           string     `json:"id"`
	JTI          string     `json:"jti,omitempty"`
	SID          string     `json:"sid,omitempty"`
	Sub          string     `json:"sub,omitempty"`
	Issuer       string     `json:"issuer,omitempty"`
	IssuedBefore *time.Time `json:"issued_before,omitempty"`
	RevokedAt    time.Time  `json:"revoked_at"`
	ExpiresAt    time.Time  `json:"expires_at"`
}

func (r Revocation) view() revocationView {
	v := revocationView{ID: r.ID, Issuer: r.Issuer, RevokedAt: fromMilli(r.at), ExpiresAt: fromMilli(r.expires)}
	switch r.kind {
	case KindToken:
		v.JTI = r.value
	case KindSession:
		v.SID = r.value
	case KindSubject:
		v.Sub, v.IssuedBefore = r.value, new(fromMilli(r.before))
	}
	return v
}

func (s *Service) listRevocations(w http.ResponseWriter, r *http.Request) error {
	limit, after, err := httpapi.NumberedPageOf(r, 0)
	if err != nil {
		return err
	}
	list, err := s.revoked.read(r.Context(), after, limit+1, "AND undone = 0 AND expires_at > $3", s.now().UnixMilli())
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, httpapi.PageFrom(list, limit, func(r Revocation) string { return strconv.FormatInt(r.seq, 10) }, Revocation.view))
}

type revokeRequest struct {
	JTI          string     `json:"jti"`
	SID          string     `json:"sid"`
	Sub          string     `json:"sub"`
	Issuer       string     `json:"issuer"`
	IssuedBefore *time.Time `json:"issued_before"`
	ExpiresAt    *time.Time `json:"expires_at"`
}

const (
	// maxClaim is the longest claim in bytes that a revocation goes by. As in a sub that jwt_auth lets in, no
	// control characters may be in it.
	maxClaim = 1024
	// maxRevoke is the longest body of a request to revoke, with every byte of the claims escaped.
	maxRevoke = 16 << 10
)

func claimFits(s string) bool {
	return len(s) <= maxClaim && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// revocation is what a request asks for.
func (in revokeRequest) revocation(now time.Time) (r Revocation, err error) {
	bad := func(format string, args ...any) (Revocation, error) {
		return Revocation{}, problem.New(problem.InvalidRequest, format, args...)
	}
	kind, value := KindToken, in.JTI
	switch {
	case in.JTI != "" && in.SID == "" && in.Sub == "":
	case in.SID != "" && in.JTI == "" && in.Sub == "":
		kind, value = KindSession, in.SID
	case in.Sub != "" && in.JTI == "" && in.SID == "":
		kind, value = KindSubject, in.Sub
	default:
		return bad("Give one of jti, sid and sub.")
	}
	if !claimFits(value) || !claimFits(in.Issuer) {
		return bad("%s and issuer must have no control characters and at most %d bytes.", kind, maxClaim)
	}
	before := int64(0)
	switch {
	case kind != KindSubject && in.IssuedBefore != nil:
		return bad("issued_before is for sub alone.")
	case in.IssuedBefore != nil && in.IssuedBefore.After(now.Add(time.Second)):
		return bad("issued_before must not be in the future: it would revoke tokens that are yet to be issued.")
	case in.IssuedBefore != nil:
		before = max(0, in.IssuedBefore.UnixMilli())
	case kind == KindSubject:
		before = now.UnixMilli()
	}
	expires := now.Add(MaxTTL)
	if in.ExpiresAt != nil {
		if expires = *in.ExpiresAt; !expires.After(now) || expires.After(now.Add(MaxTTL)) {
			return bad("expires_at must lie ahead, by at most 366 days: it is when the token expires.")
		}
		expires = expires.Add(leeway)
	}
	return newRevocation(kind, in.Issuer, value, before, expires.UnixMilli()), nil
}

// addRevocation answers POST /revocations.
func (s *Service) addRevocation(w http.ResponseWriter, r *http.Request) error {
	var in revokeRequest
	if err := httpapi.DecodeJSON(w, r, maxRevoke, &in); err != nil {
		return err
	}
	want, err := in.revocation(s.now())
	if err != nil {
		return err
	}
	if err = s.revoked.room(); err != nil {
		return err
	}
	var done []Revocation
	if want.kind == KindSession && (want.Issuer == "" || want.Issuer == s.cfg.Issuer) {
		if done, _, err = s.users.endByID(r.Context(), want.value, true); err != nil {
			return err
		}
	}
	if len(done) == 0 || in.ExpiresAt != nil {
		made, err := s.revoke(r.Context(), want)
		if err != nil {
			return err
		}
		done = []Revocation{made}
	}
	if err = s.revoked.committed(r.Context(), done...); err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusCreated, done[0].view())
}

// revoke stores a revocation. If it is of a user of ours, it ends the sessions that began until then, and what is
// issued from now on is none of it.
func (s *Service) revoke(ctx context.Context, want Revocation) (made Revocation, err error) {
	u := s.users
	err = u.db.InTx(ctx, func(tx *sql.Tx) error {
		now := s.now()
		if want.kind == KindSubject && (want.Issuer == "" || want.Issuer == s.cfg.Issuer) {
			user, err := lockUser(ctx, tx, byID(want.value))
			switch {
			case err == nil:
				until := want.before
				if want.before >= now.Add(-time.Second).UnixMilli() {
					want.before, until = max(want.before, user.issuedAt*1000), math.MaxInt64
				}
				if err = deleteSessions(ctx, tx, user.ID, until); err != nil {
					return err
				}
				if _, err = tx.ExecContext(ctx, `UPDATE identity_users SET tokens_from = $1 WHERE id = $2 AND tokens_from < $1`, want.before, user.ID); err != nil {
					return err
				}
			case !errors.Is(err, ErrNoUser):
				return err
			}
		}
		made, err = writeRevocation(ctx, u.db, tx, want, now)
		return err
	})
	return made, err
}

// undoRevocation answers DELETE /revocations/{id}.
func (s *Service) undoRevocation(w http.ResponseWriter, r *http.Request) error {
	var undone Revocation
	err := s.users.db.InTx(r.Context(), func(tx *sql.Tx) error {
		old, err := scanRevocation(tx.QueryRowContext(r.Context(), `SELECT `+revocationColumns+` FROM identity_revocations WHERE id = $1 AND undone = 0`, r.PathValue("id")).Scan)
		if errors.Is(err, sql.ErrNoRows) {
			return problem.New(problem.NotFound, "There is no revocation with this id.")
		}
		if err != nil {
			return err
		}
		old.undone = true
		undone, err = writeRevocation(r.Context(), s.users.db, tx, old, s.now())
		return err
	})
	if err != nil {
		return err
	}
	return s.revokedAll(w, r, []Revocation{undone}, nil)
}
