package webhookverify

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/gatehouse-proxy/gatehouse/internal/signature"
)

// maxID is the longest event id that is taken as one; an event with a longer one is known by its hash.
const maxID = 256

// EventID is where the id of an event is found. Exactly one field is set.
type EventID struct {
	// Header is the name of a header. None of the schemes that this is for signs headers, so
	// whoever repeats a request can change it.
	Header string `json:"header,omitempty"`
	// JSON is a path in the body: names of members and indexes of arrays, joined by dots, such as
	// id or data.object.id. The body is signed.
	JSON string `json:"json,omitempty"`
}

// finder finds the id of an event: at the JSON path, else in the header, else the body's hash.
type finder struct {
	path   []string
	header string
}

var defaultFinders = map[*signature.Scheme]finder{
	signature.GitHub:      {header: "X-GitHub-Delivery"},
	signature.Standard:    {}, // the id is signed and comes with the verification
	signature.Stripe:      {path: []string{"id"}},
	signature.Timestamped: {path: []string{"id"}, header: "X-Webhook-Id"},
}

func newFinder(scheme *signature.Scheme, at *EventID) (finder, error) {
	switch {
	case at == nil:
		return defaultFinders[scheme], nil
	case scheme == signature.Standard:
		return finder{}, errors.New("webhook_verify standard: the id is the signed header webhook-id, remove event_id")
	case (at.Header == "") == (at.JSON == ""):
		return finder{}, errors.New("event_id needs either header NAME or json PATH")
	case at.Header != "":
		return finder{header: at.Header}, nil
	}
	path := strings.Split(at.JSON, ".")
	for _, name := range path {
		if name == "" {
			return finder{}, fmt.Errorf("event_id: %q is not a path, join names by single dots, such as data.object.id", at.JSON)
		}
	}
	return finder{path: path}, nil
}

// id is the event's id. signed is the one that the scheme signs, or empty.
func (f finder) id(signed string, h http.Header, body []byte) string {
	if signed != "" {
		return signed
	}
	if f.path != nil {
		if id := lookup(body, f.path); usable(id) {
			return id
		}
	}
	if f.header != "" {
		if id := h.Get(f.header); usable(id) {
			return id
		}
	}
	sum := sha256.Sum256(body)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// usable says whether an id can be stored, shown and logged as it is.
func usable(id string) bool {
	return id != "" && len(id) <= maxID && utf8.ValidString(id) &&
		!strings.ContainsFunc(id, func(r rune) bool { return !unicode.IsPrint(r) })
}

// lookup is the string or the number at path in a JSON document, or empty.
func lookup(body []byte, path []string) string {
	raw := json.RawMessage(body)
	for _, name := range path {
		raw = bytes.TrimLeft(raw, " \t\r\n")
		switch {
		case bytes.HasPrefix(raw, []byte("{")):
			var object map[string]json.RawMessage
			if json.Unmarshal(raw, &object) != nil {
				return ""
			}
			raw = object[name]
		case bytes.HasPrefix(raw, []byte("[")):
			var array []json.RawMessage
			i, err := strconv.Atoi(name)
			if err != nil || json.Unmarshal(raw, &array) != nil || i < 0 || i >= len(array) {
				return ""
			}
			raw = array[i]
		default:
			return ""
		}
	}
	raw = bytes.TrimSpace(raw)
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	var n json.Number
	if json.Unmarshal(raw, &n) == nil {
		return n.String()
	}
	return ""
}
