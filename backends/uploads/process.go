package uploads

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/objects"
)

// sniffLen is how many of the first bytes are looked at.
const sniffLen = 512

// unreadable is the error of a job whose payload nobody can read; trying again would not help.
type unreadable struct{ error }

// Permanent makes the queue give the job up.
func (unreadable) Permanent() bool { return true }

// elsewhereTime is how long the queue looks for the instance that has an object.
const elsewhereTime = 10 * time.Minute

// elsewhere is the error of a job that another instance must do: instances that share a database have
// each its own disk, and the one that took the upload may not be the one that got the job.
type elsewhere struct{ error }

// RetryAfter makes the queue offer the job again, without using an attempt.
func (elsewhere) RetryAfter() time.Duration {
	return 100*time.Millisecond + rand.N(400*time.Millisecond)
}

// process is the worker of jobKind. It may run again, also at the same time: whatever it finds, it
// changes only an upload that is processing the object that was confirmed.
func (s *Service) process(ctx context.Context, payload []byte) error {
	var j job
	if err := json.Unmarshal(payload, &j); err != nil {
		return unreadable{fmt.Errorf("reading the job: %w", err)}
	}
	f, err := s.byID(ctx, j.ID)
	if err != nil {
		return err
	}
	if f == nil || f.state != processing || f.etag != j.ETag {
		return nil
	}
	reason, err := s.examine(ctx, f)
	switch {
	case err != nil:
		return err
	case reason == objectMissing && s.DB.Postgres() && s.Now().Sub(j.Confirmed) < elsewhereTime:
		return elsewhere{errors.New("the object is not on this instance's disk")}
	case reason != "":
		_, err = s.reject(ctx, f, reason)
	default:
		_, err = s.toReady(ctx, f, s.Now())
	}
	return err
}

// examine is the reason to reject the object, or nothing.
func (s *Service) examine(ctx context.Context, f *file) (string, error) {
	object, err := s.Store.Open(ctx, f.key, f.etag)
	switch {
	case errors.Is(err, objects.ErrNotFound):
		return objectMissing, nil
	case errors.Is(err, objects.ErrChanged):
		return objectChanged, nil
	case err != nil:
		return "", err
	}
	defer func() { _ = object.Close() }()
	head := make([]byte, sniffLen)
	n, err := io.ReadFull(object, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return "", fmt.Errorf("reading the object: %w", err)
	}
	if !isType(f.contentType, head[:n]) {
		return typeMismatch, nil
	}
	return "", nil
}

// isType says whether a file of the type may begin with head. It asks for the type's signature at
// the very beginning and does not search: what finds types in the middle takes HTML for PDF. A type
// whose beginning is not known is taken as declared.
func isType(contentType string, head []byte) bool {
	switch contentType {
	case "image/jpeg":
		return bytes.HasPrefix(head, []byte("\xff\xd8\xff"))
	case "image/png":
		return bytes.HasPrefix(head, []byte("\x89PNG\r\n\x1a\n"))
	case "image/gif":
		return bytes.HasPrefix(head, []byte("GIF87a")) || bytes.HasPrefix(head, []byte("GIF89a"))
	case "image/webp":
		return len(head) >= 12 && string(head[:4]) == "RIFF" && string(head[8:12]) == "WEBP"
	case "application/pdf":
		return bytes.HasPrefix(head, []byte("%PDF-"))
	}
	if strings.HasPrefix(contentType, "text/") {
		return isText(head)
	}
	return true
}

// isText says whether head is UTF-8 without NUL; its last character may be cut off.
func isText(head []byte) bool {
	if bytes.IndexByte(head, 0) >= 0 {
		return false
	}
	if len(head) == sniffLen {
		for cut := range utf8.UTFMax {
			if end := head[len(head)-cut:]; len(end) > 0 && utf8.RuneStart(end[0]) && !utf8.FullRune(end) {
				head = head[:len(head)-cut]
				break
			}
		}
	}
	return utf8.Valid(head)
}
