package problem

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

func TestGRPC(t *testing.T) {
	for name, tc := range map[string]struct {
		contentType string
		err         *Error
		status      int
		grpc, text  string
	}{
		"401":        {"application/grpc", New(InvalidToken, "Expired."), 200, "16", "Expired."},
		"403":        {"application/grpc+proto", New(Forbidden, ""), 200, "7", "This is not allowed"},
		"429":        {"application/grpc", &Error{Code: QuotaExceeded, Detail: "Ünder 5%", RetryAfter: time.Second}, 200, "8", "%C3%9Cnder 5%25"},
		"503":        {"application/grpc-web+proto", New(Unavailable, "No."), 200, "14", "No."},
		"unknown":    {"application/grpc", New(Code("other"), ""), 200, "13", ""},
		"json":       {"application/json", New(Forbidden, ""), 403, "", ""},
		"look-alike": {"application/grpcx", New(Forbidden, ""), 403, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodPost, "/", nil)
			r.Header.Set("Content-Type", tc.contentType)
			w := httptest.NewRecorder()
			Write(w, r, tc.err)
			h := w.Header()
			if w.Code != tc.status || h.Get("Grpc-Status") != tc.grpc || h.Get("Grpc-Message") != tc.text {
				t.Errorf("got %d %v", w.Code, h)
			}
			if tc.grpc != "" && (h.Get("Content-Type") != tc.contentType || w.Body.Len() > 0) {
				t.Errorf("got %v and %q, want trailers alone", h, w.Body)
			}
			if tc.err.RetryAfter > 0 && h.Get("Retry-After") == "" {
				t.Error("Retry-After is missing")
			}
		})
	}
}
