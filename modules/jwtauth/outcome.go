package jwtauth

import (
	"errors"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

// outcome is how a request ended here: the label of the metric, and what a decision is known by.
type outcome uint8

// The outcomes. The first three let the request pass.
const (
	passed outcome = iota
	passedCached
	anonymous
	missingToken
	invalidRequest
	malformedToken
	invalidHeader
	unsupportedAlgorithm
	unknownKey
	invalidSignature
	expired
	notYetValid
	wrongIssuer
	wrongAudience
	invalidClaims
	bound
	revoked
	insufficientScope
	insufficientAuthentication
	keysUnavailable
	unavailableHere
	outcomes
)

func (o outcome) String() string {
	return [outcomes]string{
		"ok", "cached", "anonymous", "missing", "invalid_request", "malformed", "invalid_header", "unsupported_algorithm", "unknown_key",
		"invalid_signature", "expired", "not_yet_valid", "wrong_issuer", "wrong_audience", "invalid_claims", "bound", "revoked",
		"insufficient_scope", "insufficient_authentication", "keys_unavailable", "unavailable",
	}[o]
}

// denial is a refusal: the problem that is sent, and the outcome.
type denial struct {
	problem *problem.Error
	outcome outcome
}

func (d denial) Error() string { return d.problem.Error() }

// Unwrap gives the problem, which is what is sent.
func (d denial) Unwrap() error { return d.problem }

// outcomeOf is the outcome of an error of this package.
func outcomeOf(err error) outcome {
	if d, ok := errors.AsType[denial](err); ok {
		return d.outcome
	}
	return unavailableHere
}
