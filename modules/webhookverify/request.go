package webhookverify

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/internal/signature"
)

// readBody reads the whole body as it came, at most limit bytes.
func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	if r.ContentLength > limit {
		return nil, tooLarge(limit)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err == nil {
		return body, nil
	}
	if e, ok := errors.AsType[*http.MaxBytesError](err); ok { // this cap, or a smaller one of request_body
		return nil, tooLarge(e.Limit)
	}
	return nil, problem.New(problem.InvalidRequest, "The body could not be read to its end.").Because(err)
}

func tooLarge(limit int64) error {
	return problem.New(problem.ContentTooLarge, "The body must not be larger than %d bytes.", limit)
}

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
	e := problem.New(problem.InvalidSignature, "").Because(err)
	if s, ok := errors.AsType[*signature.Error](err); ok {
		e.Detail = s.Sentence
	}
	return e
}

// endpoint is the path that events are told apart by. Caddy matches paths without regard to case
// and to doubled slashes, so a repeated request must not pass for another by these.
func endpoint(p string) string { return strings.ToLower(path.Clean("/" + p)) }

// keptBack are headers of the connection, of the sender's standing with the gateway, and those
// that the gateway itself speaks with.
var keptBack = []string{
	"Connection", "Content-Length", "Host", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection",
	"Te", "Trailer", "Transfer-Encoding", "Upgrade", // RFC 9110 section 7.6.1
	"Authorization", "Cookie", "Expect",
}

var standardNames = []string{"Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"}

// forwarded are the headers that go to the app with the event. The push of the jobs backend signs
// as Standard Webhooks unless there is such a signature, so one that nobody verified is left out.
func forwarded(h http.Header, scheme *signature.Scheme) http.Header {
	out := h.Clone()
	for _, line := range h.Values("Connection") {
		for name := range strings.SplitSeq(line, ",") {
			out.Del(strings.TrimSpace(name))
		}
	}
	for _, name := range keptBack {
		out.Del(name)
	}
	maps.DeleteFunc(out, func(name string, _ []string) bool {
		return strings.HasPrefix(strings.ToLower(name), "gatehouse-") ||
			scheme != signature.Standard && slices.Contains(standardNames, name)
	})
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
