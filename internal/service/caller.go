package service

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

// The headers by which a backend learns who calls. The gateway sets them after deleting what the client
// sent; a proxy in front of cmd/backends must do the same. All are as EncodeHeader writes them.
const (
	// SubjectHeader names the authenticated subject, {http.jwt_auth.header.id}.
	SubjectHeader = "Gatehouse-Subject"
	// OwnerHeader names whose resources the caller's are, where that is not the subject: the option
	// `owner` of the backend, such as {http.jwt_auth.header.tenant}.
	OwnerHeader = "Gatehouse-Owner"
	// RoleHeader has the roles of the verified token, {http.jwt_auth.roles}, separated by commas; within one
	// they are encoded.
	RoleHeader = "Gatehouse-Role"
	// ScopeHeader has the scopes of the verified token, {http.jwt_auth.scopes}, separated by spaces.
	ScopeHeader = "Gatehouse-Scope"
	// RankHeader is the rank that the route itself gives to everybody who reaches it, `backend NAME as
	// RANK`: RankService or RankOperator.
	RankHeader = "Gatehouse-Rank"
	// ClientIPHeader names the client's address, {client_ip}.
	ClientIPHeader = "Gatehouse-Client-Ip"
)

// CallerHeaders are all headers that a client must not be able to send.
var CallerHeaders = []string{SubjectHeader, OwnerHeader, RoleHeader, ScopeHeader, RankHeader, ClientIPHeader}

// The ranks of RankHeader.
const (
	RankService  = "service"
	RankOperator = "operator"
)

// Ranks say whose tokens are those of operators and services.
type Ranks struct {
	// AdminRole is the role whose holders are operators: they see and change what belongs to anybody, and
	// what belongs to nobody, such as queues. Default: admin.
	AdminRole string `json:"admin_role,omitempty"`
	// ServiceScope is the scope whose holders are services: the app itself, which acts for all of its
	// users. Users must not be able to get it. Default: the name of the backend and ":write", such as jobs:write.
	ServiceScope string `json:"service_scope,omitempty"`
}

// Authority says who may do what in a backend. Its zero value is a working default: users own what they
// make, and tokens with the role admin are operators.
type Authority struct {
	// Owner is whose resources a caller's are, with placeholders that are expanded for each request, such
	// as {http.auth.user.tenant}. Where one of them is empty, or a claim is an array or an object, the caller
	// owns nothing and is refused. Where there are several, the value of each has % and the signs that the
	// template has between them percent-encoded, so that no two callers are taken for one. With tokens of several
	// issuers, which may give out the same subject, it should be {http.auth.user.iss} {http.auth.user.id}. The
	// gateway expands it; cmd/backends takes the header Gatehouse-Owner for it. Default: {http.auth.user.id}.
	Owner string `json:"owner,omitempty"`
	Ranks
}

// Validate says what is wrong with the settings.
func (a Authority) Validate() error {
	if a.Owner != "" {
		if _, err := ParseOwner(a.Owner); err != nil {
			return err
		}
	}
	return a.Ranks.Validate()
}

// Validate says what is wrong with the ranks.
func (k Ranks) Validate() error {
	if strings.TrimSpace(k.AdminRole) != k.AdminRole {
		return fmt.Errorf("admin_role %q begins or ends with a space", k.AdminRole)
	}
	if strings.ContainsFunc(k.ServiceScope, func(c rune) bool { return c <= ' ' || c > '~' || c == '"' || c == '\\' }) {
		return fmt.Errorf("service_scope %q is not a scope: use printable ASCII characters without spaces, quotes and backslashes", k.ServiceScope)
	}
	return nil
}

// OwnerTemplate is the option owner, empty for the default.
func (a Authority) OwnerTemplate() string { return a.Owner }

// Caller is who asks a backend for something. The zero Caller is nobody.
type Caller struct {
	// Subject is the verified subject, empty if there is none.
	Subject string
	// Owner is whose resources the caller's are. It is empty for a service or an operator that is known by
	// the route alone; what such a caller makes for nobody in particular belongs to nobody.
	Owner string
	// Service tells that the caller is the app itself, which may act for any owner.
	Service bool
	// Operator tells that the caller may do everything.
	Operator bool
}

// Caller returns who sent the request to the backend of this name. Who came through the admin endpoint is
// an operator.
func (a Authority) Caller(r *http.Request, backend string) Caller {
	subject, owner := r.Header.Get(SubjectHeader), r.Header.Get(OwnerHeader)
	c := Caller{Subject: DecodeHeader(subject), Owner: DecodeHeader(owner)}
	if owner == "" && a.Owner == "" {
		c.Owner = c.Subject
	}
	role, scope := cmp.Or(a.AdminRole, "admin"), a.ServiceScope
	rank := r.Header.Get(RankHeader)
	c.Operator = rank == RankOperator || IsAdmin(r.Context()) || has(r.Header.Get(RoleHeader), ',', EncodeHeader(role, ","))
	c.Service = rank == RankService
	if scopes := r.Header.Get(ScopeHeader); scopes != "" && !c.Service {
		if scope == "" {
			scope = backend + ":write"
		}
		c.Service = has(scopes, ' ', scope)
	}
	return c
}

// has reports whether the list has the word.
func has(list string, separator byte, word string) bool {
	for list != "" {
		one := list
		if i := strings.IndexByte(list, separator); i >= 0 {
			one, list = list[:i], list[i+1:]
		} else {
			list = ""
		}
		if one == word {
			return true
		}
	}
	return false
}

// Any reports whether the caller may see and change what belongs to others.
func (c Caller) Any() bool { return c.Service || c.Operator }

// MayUse reports whether the caller may see and change what belongs to owner.
func (c Caller) MayUse(owner string) bool { return c.Any() || c.Owner != "" && c.Owner == owner }

// Check returns the problem with a caller that is nobody: neither a service nor an operator, and without
// an owner. It is missing-token where there is no subject either.
func (c Caller) Check() error {
	switch {
	case c.Any() || c.Owner != "":
		return nil
	case c.Subject == "":
		return problem.New(problem.MissingToken, "This needs to know who calls: send an access token, or, as the app itself, come by a route with: backend NAME as service.")
	}
	return problem.New(problem.Forbidden, "The access token does not say whose resources these are: it lacks the claim that the option owner of the backend names.")
}

// CheckAny returns the problem with a caller that is neither a service nor an operator.
func (c Caller) CheckAny() error {
	if c.Any() {
		return nil
	}
	if err := c.Check(); err != nil {
		return err
	}
	return problem.New(problem.Forbidden, "Only the app itself and operators may do this.")
}

// CheckOperator returns the problem with a caller that is no operator.
func (c Caller) CheckOperator() error {
	if c.Operator {
		return nil
	}
	if err := c.Check(); err != nil {
		return err
	}
	return problem.New(problem.Forbidden, "Only operators may do this.")
}

// ownerSeparator stands between an owner and a name in the owner's own space. Neither has it in it: names
// have no control characters, and owners are encoded.
const ownerSeparator = "\x1f"

// Scoped returns the name in the space of an owner, and the name itself for nobody. The name must have no
// control characters.
func Scoped(owner, name string) string {
	if owner == "" {
		return name
	}
	return EncodeHeader(owner, "") + ownerSeparator + name
}

// ScopeOf returns the space that Scoped put the name into, an owner in the form of EncodeHeader; it is empty
// for nobody.
func ScopeOf(name string) string {
	if owner, _, ok := strings.Cut(name, ownerSeparator); ok {
		return owner
	}
	return ""
}

// Unscoped is the reverse of Scoped.
func Unscoped(name string) string {
	if _, own, ok := strings.Cut(name, ownerSeparator); ok {
		return own
	}
	return name
}

type adminKey struct{}

// AsAdmin marks a request that came through the admin endpoint: who may use that may do everything.
func AsAdmin(ctx context.Context) context.Context {
	return context.WithValue(ctx, adminKey{}, true)
}

// IsAdmin says whether AsAdmin marked the request.
func IsAdmin(ctx context.Context) bool {
	admin, _ := ctx.Value(adminKey{}).(bool)
	return admin
}
