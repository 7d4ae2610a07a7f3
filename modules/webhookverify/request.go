package webhookverify

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/internal/signature"
)

// restore makes the bytes that were verified the request's body.
func restore(r *http.Request, body []byte) {
	r.Body = io.NopCloser(bytes.NewReader(body))
	r.ContentLength = int64(len(body))
	r.TransferEncoding = nil
}

func notPost() error {
	e := problem.New(problem.MethodNotAllowed, "Webhooks are sent with POST.")
	e.Header = http.Header{"Allow": {http.MethodPost}}
	return e
}

// forged is the answer to a request that is not genuine.
func forged(err error) error {
	if _, ok := errors.AsType[*problem.Error](err); ok {
		return err
	}
	e := problem.New(problem.InvalidSignature, "").Because(err)
	e.Header = http.Header{"Www-Authenticate": {`Signature realm="gatehouse"`}} // a 401 must have a challenge (RFC 9110 section 15.5.2)
	if s, ok := errors.AsType[*signature.Error](err); ok {
		e.Detail = s.Sentence
	}
	return e
}

// endpoint is the path that events are told apart by. Caddy matches paths without regard to case
// and to doubled slashes, so a repeated request must not pass for another by these.
func endpoint(p string) string { return strings.ToLower(path.Clean("/" + p)) }

// sentOn are the headers that go to the app with an event, besides those that its scheme speaks with.
// All else is left out: nobody signed it, and the app may believe such names as X-User-Id.
var sentOn = []string{"Content-Type", "Content-Encoding", "User-Agent"}

// spoken are the prefixes of the headers of each scheme. The push of the jobs backend signs as
// Standard Webhooks unless there is such a signature, so webhook- is for those that verified it.
var spoken = map[*signature.Scheme][]string{
	signature.Stripe:      {"Stripe-"},
	signature.GitHub:      {"X-Github-", "X-Hub-"},
	signature.Standard:    {"Webhook-", "Svix-"},
	signature.Timestamped: {"X-Webhook-"},
}

// forwarded are the headers that go to the app with the event, the one that holds its id among them.
func forwarded(h http.Header, scheme *signature.Scheme, eventID string) http.Header {
	out := http.Header{}
	for name, values := range h {
		speaks := func(prefix string) bool { return strings.HasPrefix(name, prefix) }
		if name == http.CanonicalHeaderKey(eventID) || slices.Contains(sentOn, name) || slices.ContainsFunc(spoken[scheme], speaks) {
			out[name] = slices.Clone(values)
		}
	}
	return out
}

// writeTaken answers a sender whose event is on disk.
func writeTaken(w http.ResponseWriter, id string, duplicate bool) error {
	b, err := json.Marshal(struct {
		ID        string `json:"id"`
		Duplicate bool   `json:"duplicate"`
	}{id, duplicate})
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)+1))
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(append(b, '\n'))
	return nil
}
