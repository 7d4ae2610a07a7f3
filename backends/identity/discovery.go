package identity

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/httpapi"
	"github.com/gatehouse-proxy/gatehouse/internal/loopback"
	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

const jwksPath = "/.well-known/jwks.json"

// metadata is what clients find out by themselves (OpenID Connect Discovery 1.0 section 3, RFC 8414
// section 2). There is no authorization endpoint and no token endpoint of OAuth, so none is named, and the
// lists that have other defaults are empty.
type metadata struct {
	Issuer          string   `json:"issuer"`
	JWKSURI         string   `json:"jwks_uri"`
	ResponseTypes   []string `json:"response_types_supported"`
	GrantTypes      []string `json:"grant_types_supported"`
	SubjectTypes    []string `json:"subject_types_supported"`
	SigningAlgs     []string `json:"id_token_signing_alg_values_supported"`
	Claims          []string `json:"claims_supported"`
	ClaimsParameter bool     `json:"claims_parameter_supported"`
	RequestURI      bool     `json:"request_uri_parameter_supported"`
}

// discovery answers GET /.well-known/openid-configuration and /.well-known/oauth-authorization-server.
func (s *Service) discovery(w http.ResponseWriter, _ *http.Request) error {
	if !discoverable(s.cfg.Issuer) {
		return problem.New(problem.NotFound, "There is nothing to discover while issuer is no URL: set issuer of the backend identity to the https:// URL under which it is reached.")
	}
	m := metadata{
		Issuer: s.cfg.Issuer, JWKSURI: strings.TrimSuffix(s.cfg.Issuer, "/") + jwksPath,
		ResponseTypes: []string{}, GrantTypes: []string{}, SubjectTypes: []string{"public"}, SigningAlgs: []string{},
		Claims: []string{"iss", "sub", "aud", "exp", "iat", "jti", "sid", "auth_time", "role", "scope"},
	}
	signer, err := s.keys.Get()
	if err != nil {
		return keysUnavailable(err)
	}
	for _, k := range slices.Concat(signer.keys, signer.coming) {
		if alg := k.method.Alg(); !slices.Contains(m.SigningAlgs, alg) {
			m.SigningAlgs = append(m.SigningAlgs, alg)
		}
	}
	publish(w)
	return httpapi.WriteJSON(w, http.StatusOK, m)
}

// serveJWKS answers GET /.well-known/jwks.json.
func (s *Service) serveJWKS(w http.ResponseWriter, r *http.Request) error {
	signer, err := s.keys.Get()
	if err != nil {
		return keysUnavailable(err)
	}
	publish(w)
	w.Header().Set("Content-Type", "application/jwk-set+json")
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		_, _ = w.Write(signer.jwks)
	}
	return nil
}

// publish lets anybody read and keep the answer for a while.
func publish(w http.ResponseWriter) {
	w.Header().Set("Cache-Control", "public, max-age=300")
	w.Header().Set("Access-Control-Allow-Origin", "*")
}

// discoverable says whether the issuer is an https URL, or an http one on loopback.
func discoverable(issuer string) bool {
	u, err := url.Parse(issuer)
	if err != nil || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return false
	}
	return u.Scheme == "https" || u.Scheme == "http" && loopback.Host(u.Hostname())
}
