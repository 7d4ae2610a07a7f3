package uploads

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/objects"
)

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
