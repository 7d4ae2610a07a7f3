package flags

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"unicode/utf8"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/httpapi"
	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

// The error codes of OFREP that this backend answers with.
const (
	flagNotFound        = "FLAG_NOT_FOUND"
	parseError          = "PARSE_ERROR"
	targetingKeyMissing = "TARGETING_KEY_MISSING"
	invalidContext      = "INVALID_CONTEXT"
	general             = "GENERAL"
)

// evaluation is OFREP's success. Value is always there: a flag of this backend knows its answer,
// also when it is disabled.
type evaluation struct {
	Key      string   `json:"key"`
	Reason   Reason   `json:"reason"`
	Variant  string   `json:"variant"`
	Value    bool     `json:"value"`
	Metadata metadata `json:"metadata"`
}

type metadata struct {
	Version int64 `json:"version"`
}

// failure is OFREP's error. Its shape is the protocol's, not that of a problem document.
type failure struct {
	Key     string `json:"key,omitempty"`
	Code    string `json:"errorCode"`
	Details string `json:"errorDetails,omitempty"`

	status int
}

func (s *Service) evaluateOne(w http.ResponseWriter, r *http.Request) error {
	key := r.PathValue("key")
	user, fail := targetingKey(w, r)
	if fail != nil {
		fail.Key = key
		return httpapi.WriteJSON(w, fail.status, fail)
	}
	f := s.live.flag(key)
	if f == nil {
		return httpapi.WriteJSON(w, http.StatusNotFound, failure{Key: key, Code: flagNotFound, Details: "There is no such flag."})
	}
	return httpapi.WriteJSON(w, http.StatusOK, evaluate(f, user))
}

// evaluateAll answers with every flag. The entity tag covers the user and all results with their
// versions, so a 304 says that this user's evaluations are the same as before.
func (s *Service) evaluateAll(w http.ResponseWriter, r *http.Request) error {
	user, fail := targetingKey(w, r)
	if fail != nil {
		return httpapi.WriteJSON(w, fail.status, fail)
	}
	snap := s.live.snap.Load()
	body := struct {
		Flags []evaluation `json:"flags"`
	}{Flags: make([]evaluation, 0, len(snap.keys))}
	for _, key := range snap.keys {
		body.Flags = append(body.Flags, evaluate(snap.flags[key], user))
	}
	b, err := json.Marshal(body)
	if err != nil {
		return err
	}
	h := sha256.New()
	_, _ = h.Write(b)
	_, _ = h.Write([]byte(user))
	etag := hex.EncodeToString(h.Sum(nil)[:16])
	w.Header().Set("ETag", `"`+etag+`"`)
	if known, ok := parseTags(r.Header.Values("If-None-Match")); ok && !known.any && known.weakly(etag) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	return httpapi.WriteJSON(w, http.StatusOK, json.RawMessage(b))
}

func evaluate(f *Flag, user string) evaluation {
	r := f.Evaluate(user)
	return evaluation{Key: f.Key, Reason: r.Reason, Variant: r.Variant(), Value: r.On, Metadata: metadata{f.Version}}
}

// targetingKey reads the user from the body. Other members, of the body and of the context, are for
// other servers and ignored.
func targetingKey(w http.ResponseWriter, r *http.Request) (string, *failure) {
	b, err := httpapi.ReadBody(w, r, maxBody)
	if err != nil {
		if e := problem.From(err); e.Code == problem.ContentTooLarge {
			return "", &failure{Code: general, Details: "The body is too large.", status: http.StatusRequestEntityTooLarge}
		}
		return "", &failure{Code: parseError, Details: "The body could not be read to its end.", status: http.StatusBadRequest}
	}
	return parseContext(b)
}

func parseContext(b []byte) (string, *failure) {
	refuse := func(code, details string) (string, *failure) {
		return "", &failure{Code: code, Details: details, status: http.StatusBadRequest}
	}
	var body, ctx map[string]json.RawMessage
	if !utf8.Valid(b) || json.Unmarshal(b, &body) != nil || body == nil {
		return refuse(parseError, "The body must be one JSON object.")
	}
	if body["context"] == nil {
		return refuse(targetingKeyMissing, "context.targetingKey is required.")
	}
	if json.Unmarshal(body["context"], &ctx) != nil {
		return refuse(invalidContext, "context must be an object.")
	}
	user, raw := "", ctx["targetingKey"]
	if raw != nil && json.Unmarshal(raw, &user) != nil {
		return refuse(invalidContext, "context.targetingKey must be a string.")
	}
	if user == "" {
		return refuse(targetingKeyMissing, "context.targetingKey is required.")
	}
	return user, nil
}
