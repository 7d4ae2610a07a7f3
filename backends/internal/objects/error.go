package objects

import (
	"encoding/xml"
	"net/http"
	"strconv"
	"strings"

	"github.com/gatehouse-proxy/gatehouse/internal/drain"
	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

// Error is an S3 error as it stands on the wire. This endpoint speaks S3, so its errors are XML and
// not problem documents.
type Error struct {
	Status  int
	Code    string
	Message string
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

func denied(message string) *Error { return &Error{http.StatusForbidden, "AccessDenied", message} }

func queryError(message string) *Error {
	return &Error{http.StatusBadRequest, "AuthorizationQueryParametersError", message}
}

func notImplemented(message string) *Error {
	return &Error{http.StatusNotImplemented, "NotImplemented", message}
}

// document is the error's XML.
type document struct {
	XMLName   xml.Name `xml:"Error"`
	Code      string
	Message   string
	Resource  string
	RequestID string `xml:"RequestId"`
}

func (e *Error) write(w http.ResponseWriter, r *http.Request) {
	body, err := xml.Marshal(document{Code: e.Code, Message: e.Message, Resource: strings.ToValidUTF8(r.URL.Path, "\uFFFD"), RequestID: problem.RequestID(r.Context())})
	if err != nil {
		body = nil
	}
	body = append([]byte(xml.Header), body...)
	w.Header().Set("Content-Type", "application/xml")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.Header().Set("Cache-Control", "no-store")
	if e.Status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	drain.Answer(w, r, func() {
		w.WriteHeader(e.Status)
		if r.Method != http.MethodHead {
			_, _ = w.Write(body)
		}
	})
}
