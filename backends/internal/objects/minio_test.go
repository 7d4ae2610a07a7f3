package objects_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// TestMinioClient has another implementation of the protocol sign what ours verifies and stores.
func TestMinioClient(t *testing.T) {
	s := start(t)
	client, err := minio.New(s.base.Host, &minio.Options{
		Creds: credentials.NewStaticV4("gatehouse", "a secret for tests", ""), Region: "us-east-1",
	})
	if err != nil {
		t.Fatal(err)
	}
	const key = "objects/ü/a b+c~(1).txt"
	header := http.Header{"Content-Type": {"text/plain"}, "Content-Length": {"5"}, "If-None-Match": {"*"}}
	signed, err := client.PresignHeader(t.Context(), http.MethodPut, "uploads", key, time.Minute, nil, header)
	if err != nil {
		t.Fatal(err)
	}
	upload := func(content, contentType string) *http.Response {
		return do(t, http.MethodPut, signed.String(), strings.NewReader(content), func(r *http.Request) {
			r.Header.Set("Content-Type", contentType)
			r.Header.Set("If-None-Match", "*")
		})
	}
	wantError(t, upload("12345", "text/html"), http.StatusForbidden, "SignatureDoesNotMatch")
	wantError(t, upload("123456", "text/plain"), http.StatusForbidden, "SignatureDoesNotMatch")
	if resp := upload("12345", "text/plain"); resp.StatusCode != http.StatusOK {
		t.Fatalf("PUT: %d %s", resp.StatusCode, body(t, resp))
	}
	wantError(t, upload("12345", "text/plain"), http.StatusPreconditionFailed, "PreconditionFailed")

	query := map[string][]string{"response-content-disposition": {`attachment; filename="a b.txt"`}}
	signed, err = client.PresignedGetObject(t.Context(), "uploads", key, time.Minute, query)
	if err != nil {
		t.Fatal(err)
	}
	got := do(t, http.MethodGet, signed.String(), nil, nil)
	if got.StatusCode != http.StatusOK || body(t, got) != "12345" || got.Header.Get("Content-Disposition") != `attachment; filename="a b.txt"` {
		t.Errorf("GET: %d %v", got.StatusCode, got.Header)
	}
	signed, err = client.PresignedHeadObject(t.Context(), "uploads", key, time.Minute, nil)
	if err != nil {
		t.Fatal(err)
	}
	if head := do(t, http.MethodHead, signed.String(), nil, nil); head.StatusCode != http.StatusOK || head.ContentLength != 5 {
		t.Errorf("HEAD: %d", head.StatusCode)
	}

	// A PUT without a condition replaces the object; only the holder of the secret can sign one.
	signed, err = client.PresignedPutObject(t.Context(), "uploads", key, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if resp := do(t, http.MethodPut, signed.String(), strings.NewReader("replaced"), nil); resp.StatusCode != http.StatusOK {
		t.Fatalf("replacing: %d %s", resp.StatusCode, body(t, resp))
	}
	info, err := s.Stat(t.Context(), key)
	if err != nil || info.Size != 8 || info.ContentType != "application/octet-stream" {
		t.Fatalf("Stat: %+v, %v", info, err)
	}
	f, err := s.Open(t.Context(), key, info.ETag)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if b, err := io.ReadAll(f); err != nil || string(b) != "replaced" {
		t.Errorf("content %q, %v", b, err)
	}
}
