package service

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

// The headers by which a backend learns who calls. The gateway sets them after deleting what the client
// sent; a proxy in front of cmd/backends must do the same.
const (
	// SubjectHeader names the authenticated subject, {http.auth.user.id}.
	SubjectHeader = "Gatehouse-Subject"
	// OwnerHeader names whose resources the caller's are, where that is not the subject: the option
	// `owner` of the backend, such as {http.auth.user.tenant}.
	OwnerHeader = "Gatehouse-Owner"
	// RoleHeader has the roles of the verified token, its claims role and roles, separated by commas.
	RoleHeader = "Gatehouse-Role"
	// ScopeHeader has the scopes of the verified token, its claims scope and scp, separated by spaces or commas.
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

// Authority says who may do what in a backend. Its zero value is a working default: users own what they
// make, and tokens with the role admin are operators.
type Authority struct {
	// Owner is whose resources a caller's are, with placeholders that are expanded for each request, such
	// as {http.auth.user.tenant}. Callers for whom it is empty are refused. The gateway expands it and
	// cmd/backends reads the result from the header Gatehouse-Owner. Default: {http.auth.user.id}.
	Owner string `json:"owner,omitempty"`
	// AdminRole is the role whose holders are operators: they see and change what belongs to anybody, and
	// what belongs to nobody, such as queues. Default: admin.
	AdminRole string `json:"admin_role,omitempty"`
	// ServiceScope is the scope whose holders are services: the app itself, which acts for all of its
	// users. Default: the name of the backend and ":write", such as jobs:write.
	ServiceScope string `json:"service_scope,omitempty"`
}

// Caller is who asks a backend for something. The zero Caller is nobody.
type Caller struct {
	// Subject is the verified subject, empty if there is none.
	Subject string
	// Owner is whose resources the caller's are. A service's own belong to the service.
	Owner string
	// Service tells that the caller is the app itself, which may act for any owner.
	Service bool
	// Operator tells that the caller may do everything.
	Operator bool
}

// Caller returns who sent the request to the backend of this name. Who came through the admin endpoint is
// an operator.
func (a Authority) Caller(r *http.Request, backend string) Caller {
	c := Caller{Subject: r.Header.Get(SubjectHeader), Owner: r.Header.Get(OwnerHeader)}
	if c.Owner == "" && a.Owner == "" {
		c.Owner = c.Subject
	}
	role, scope := a.AdminRole, a.ServiceScope
	if role == "" {
		role = "admin"
	}
	if scope == "" {
		scope = backend + ":write"
	}
	rank := r.Header.Get(RankHeader)
	c.Operator = rank == RankOperator || IsAdmin(r.Context()) || slices.Contains(strings.Split(r.Header.Get(RoleHeader), ","), role)
	c.Service = rank == RankService || slices.Contains(strings.FieldsFunc(r.Header.Get(ScopeHeader), func(c rune) bool { return c == ' ' || c == ',' }), scope)
	return c
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
		return problem.New(problem.MissingToken, "This needs to know who calls: send an access token.")
	}
	return problem.New(problem.Forbidden, "The access token does not say whose resources these are.")
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
