// Package secrets shows how the secret sets of the running gateway stand and rotates them: through
// Caddy's admin endpoint and the commands `gatehouse secrets`. No answer holds a value.
package secrets

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/internal/secret"
	"github.com/gatehouse-proxy/gatehouse/internal/secret/source"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
	"github.com/gatehouse-proxy/gatehouse/modules/gatehouse"
)

func init() { caddy.RegisterModule(adminAPI{}) }

const (
	statusPath = "/gatehouse/secrets"
	rotatePath = "/gatehouse/secrets/rotate"
	// defaultOverlap is the default life of tokens.
	defaultOverlap = 24 * time.Hour
	// maxBody is that of a value with its JSON escapes.
	maxBody = 6*secret.MaxContent + 1024
)

// adminAPI adds the secret sets to Caddy's admin endpoint, for the configuration that serves:
//
//   - GET /gatehouse/secrets: how the named sets and the generated keys stand
//   - POST /gatehouse/secrets/rotate {name, overlap?, value?}: puts a new version in force
type adminAPI struct{}

// CaddyModule is the module's registration.
func (adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "admin.api.gatehouse_secrets", New: func() caddy.Module { return new(adminAPI) }}
}

// Routes are the API.
func (*adminAPI) Routes() []caddy.AdminRoute {
	route := func(path, method string, do func(*http.Request, *service.Host) (any, error)) caddy.AdminRoute {
		return caddy.AdminRoute{Pattern: path, Handler: caddy.AdminHandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
			answer, err := answer(r, method, do)
			if err != nil {
				problem.Write(w, r, err)
				return nil
			}
			w.Header().Set("Cache-Control", "no-store")
			w.Header().Set("Content-Type", "application/json")
			return json.NewEncoder(w).Encode(answer)
		})}
	}
	return []caddy.AdminRoute{route(statusPath, http.MethodGet, status), route(rotatePath, http.MethodPost, rotate)}
}

func answer(r *http.Request, method string, do func(*http.Request, *service.Host) (any, error)) (any, error) {
	if r.Method != method {
		e := problem.New(problem.MethodNotAllowed, "Use %s.", method)
		e.Header = http.Header{"Allow": {method}}
		return nil, e
	}
	host := gatehouse.Serving()
	if host == nil {
		return nil, problem.New(problem.NotFound, "The running configuration has no secrets: name them in the global options, such as gatehouse { secret jwt file /run/secrets/jwt }.")
	}
	return do(r, host)
}

// Statuses is the answer of GET /gatehouse/secrets.
type Statuses struct {
	Items []source.Status `json:"items"`
}

func status(_ *http.Request, host *service.Host) (any, error) {
	return Statuses{host.SecretStatus()}, nil
}

// Rotation is what POST /gatehouse/secrets/rotate takes.
type Rotation struct {
	// Name is the named set's or the generated key's. Required.
	Name string `json:"name"`
	// Overlap is how long the versions before it go on verifying. Default: 24h.
	Overlap *unit.Duration `json:"overlap,omitempty"`
	// Value is the new value. Default: one is made that is of the same kind as the newest.
	Value *string `json:"value,omitempty"`
}

func rotate(r *http.Request, host *service.Host) (any, error) {
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxBody))
	if err != nil {
		return nil, problem.New(problem.InvalidRequest, "The body cannot be read, or has more than %d bytes.", maxBody)
	}
	var want Rotation
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err = dec.Decode(&want); err != nil || want.Name == "" { // the decoder's sentence may hold the value
		return nil, problem.New(problem.InvalidRequest, `The body must be an object with name, and may have overlap and value, such as {"name": "jwt", "overlap": "24h"}.`)
	}
	overlap := defaultOverlap
	if want.Overlap != nil {
		overlap = want.Overlap.Std()
	}
	var value []byte
	if want.Value != nil {
		value = []byte(*want.Value)
	}
	done, err := host.RotateSecret(r.Context(), want.Name, overlap, value)
	if _, ok := errors.AsType[*service.UnknownSecretError](err); ok {
		return nil, problem.New(problem.NotFound, "%s", err)
	}
	if refused, ok := errors.AsType[*source.NotRotatedError](err); ok {
		return nil, problem.New(problem.Unprocessable, "%s", refused)
	}
	if err != nil {
		return nil, problem.New(problem.Unprocessable, "%s", err).Because(err)
	}
	return done, nil
}

// Interface guards
var _ caddy.AdminRouter = (*adminAPI)(nil)
