package httpapi

import (
	"context"
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

// maxOwner is the longest name of an owner in bytes. An index of PostgreSQL takes less than 2.7 kB, and has to
// hold it encoded, and before a name of the owner's own.
const maxOwner = 512

// Guard adds routes for those whom Check lets pass.
type Guard struct {
	Router    *Router
	Authority service.Authority
	// Backend is the backend's name.
	Backend string
	// Check returns the problem with a caller, such as service.Caller.CheckAny.
	Check func(service.Caller) error
}

// Handle adds a route. Its handler finds the caller with CallerOf.
func (g Guard) Handle(method, pattern string, h Handler) {
	g.Router.Handle(method, pattern, g.Wrap(h))
}

// Wrap returns h behind the check.
func (g Guard) Wrap(h Handler) Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		c := g.Authority.Caller(r, g.Backend)
		if err := g.Check(c); err != nil {
			return err
		}
		if !c.Any() && len(c.Owner) > maxOwner {
			return errTooLong()
		}
		return h(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, c)))
	}
}

type callerKey struct{}

// CallerOf returns who sent the request of ctx, which came by a Guard.
func CallerOf(ctx context.Context) service.Caller {
	c, _ := ctx.Value(callerKey{}).(service.Caller)
	return c
}

// MayUse reports whether who sent the request of ctx may see what belongs to owner. What is asked without a
// request is asked by us.
func MayUse(ctx context.Context, owner string) bool {
	c, asked := ctx.Value(callerKey{}).(service.Caller)
	return !asked || c.MayUse(owner)
}

// OwnerOf returns whom something belongs to that the caller makes for wanted, which is empty for the caller itself.
func OwnerOf(c service.Caller, wanted string) (string, error) {
	switch {
	case wanted == "" && len(c.Owner) > maxOwner:
		return "", errTooLong()
	case wanted == "":
		return c.Owner, nil
	case len(wanted) > maxOwner || !utf8.ValidString(wanted) || strings.ContainsFunc(wanted, unicode.IsControl):
		return "", problem.New(problem.InvalidRequest, "owner must have at most %d bytes and no control characters.", maxOwner)
	case !c.MayUse(wanted):
		return "", problem.New(problem.Forbidden, "Only the app itself and operators may name another owner than the caller.")
	}
	return wanted, nil
}

func errTooLong() error {
	return problem.New(problem.Forbidden, "The access token names an owner of more than %d bytes, nothing can be kept for it.", maxOwner)
}

// OwnerNamed is OwnerOf for who sent the request of ctx, where a service or an operator that names no owner
// means what belongs to nobody.
func OwnerNamed(ctx context.Context, wanted string) (string, error) {
	c := CallerOf(ctx)
	if c.Any() {
		c.Owner = ""
	}
	return OwnerOf(c, wanted)
}

// OwnerAsked is OwnerNamed for the owner that ?owner= names.
func OwnerAsked(r *http.Request) (string, error) {
	return OwnerNamed(r.Context(), r.URL.Query().Get("owner"))
}

// OwnerListed returns whose things a list is about, "" for everybody's: a user's own, and for a service or an
// operator those that ?owner= names, or all.
func OwnerListed(r *http.Request) string {
	if c := CallerOf(r.Context()); !c.Any() {
		return c.Owner
	}
	return r.URL.Query().Get("owner")
}
