package problem

import (
	"net/http"
	"strconv"
	"strings"
)

// grpcStatus is the status of gRPC for each HTTP status: by what it says to a caller, where the mapping for
// HTTP's own intermediaries (grpc/doc/http-grpc-status-mapping.md) knows no better. Others are UNKNOWN.
var grpcStatus = map[int]int{
	400: 3, 401: 16, 403: 7, 404: 5, 405: 12, 408: 4, 409: 10, 410: 5, 412: 9, 413: 8, 415: 3, 422: 3, 429: 8,
	499: 1, 500: 13, 501: 12, 502: 14, 503: 14, 504: 4, 507: 8,
}

const grpcUnknown = 2

// IsGRPC reports whether the media type is that of gRPC, in any of its forms.
func IsGRPC(contentType string) bool {
	rest, ok := strings.CutPrefix(contentType, "application/grpc")
	return ok && (rest == "" || strings.IndexByte("+-; ", rest[0]) >= 0)
}

// writeGRPC renders e for a caller that speaks gRPC, which looks for a status in the trailers and takes an
// answer without one for a broken connection. It is an answer of trailers alone, which are its header.
func writeGRPC(w http.ResponseWriter, r *http.Request, e *Error, status int) {
	code, ok := grpcStatus[status]
	if !ok {
		code = grpcUnknown
	}
	message := e.Code.Title()
	if e.Detail != "" {
		message = e.Detail
	}
	h := w.Header()
	for _, name := range []string{"Content-Length", "Content-Encoding", "Etag", "Last-Modified"} {
		h.Del(name)
	}
	h["Content-Type"] = []string{r.Header.Get("Content-Type")}
	h["Grpc-Status"] = []string{strconv.Itoa(code)}
	h["Grpc-Message"] = []string{percentEncode(message)}
	w.WriteHeader(http.StatusOK)
}

// percentEncode writes a message as gRPC does: printable ASCII but the percent sign as it is.
func percentEncode(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for _, c := range []byte(s) {
		if c >= ' ' && c <= '~' && c != '%' {
			b.WriteByte(c)
			continue
		}
		b.Write([]byte{'%', hex[c>>4], hex[c&15]})
	}
	return b.String()
}
