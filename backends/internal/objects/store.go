// Package objects keeps the bytes of uploads. Store is the seam: what a backend needs of an object
// store, where clients send and fetch the bytes themselves with presigned URLs. Disk is the store
// that needs nothing: it keeps objects in a directory and answers S3's own protocol for them.
package objects

import (
	"context"
	"errors"
	"io"
	"net/url"
	"time"
)

var (
	// ErrNotFound says that there is no object under the key.
	ErrNotFound = errors.New("no such object")
	// ErrChanged says that the object under the key is not the one with the pinned ETag.
	ErrChanged = errors.New("the object has changed")
)

// Store is an object store. Keys are UTF-8 of at most 1024 bytes, with slashes as separators.
// Methods that take a context obey it; all may be called at the same time.
type Store interface {
	// PresignPut is the URL and the headers with which a client uploads the object by PUT. The
	// client must send exactly spec.Size bytes and every header as it is given; Content-Length is
	// not among them since every HTTP client sets it itself. The URL creates the object once: it
	// can never replace one. base is the scheme and host of the store as the client sees it; ttl is
	// 1 s to 7 days in whole seconds and counts when the upload begins.
	PresignPut(now time.Time, base *url.URL, key string, spec PutSpec, ttl time.Duration) (string, map[string]string)
	// PresignGet is the URL with which a client downloads the object; base and ttl as in PresignPut.
	PresignGet(now time.Time, base *url.URL, key string, spec GetSpec, ttl time.Duration) string
	// Stat describes the object; ErrNotFound if there is none.
	Stat(ctx context.Context, key string) (Info, error)
	// Open reads the object whose ETag is etag; ErrNotFound or ErrChanged if that is not what is there.
	Open(ctx context.Context, key, etag string) (io.ReadCloser, error)
	// Delete removes the object. It is no error if there is none.
	Delete(ctx context.Context, key string) error
	// Check says whether the store can do its work now; it changes nothing.
	Check(ctx context.Context) error
}

// PutSpec is what an upload must be.
type PutSpec struct {
	// ContentType is the media type, sent and stored as it is.
	ContentType string
	// Size is the exact number of bytes.
	Size int64
}

// GetSpec is how a download is answered.
type GetSpec struct {
	// Disposition is the Content-Disposition. Default: attachment.
	Disposition string
	// ContentType is the Content-Type. Default: that of the upload.
	ContentType string
}

// Info describes a stored object.
type Info struct {
	Size        int64
	ContentType string
	// ETag identifies the content, in quotes (RFC 9110 section 8.8.3).
	ETag     string
	Modified time.Time
}
