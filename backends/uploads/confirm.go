package uploads

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/httpapi"
	"github.com/gatehouse-proxy/gatehouse/backends/internal/objects"
	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

// statTime bounds the question to the store whether the object is there.
const statTime = 2 * time.Second

type confirmed struct {
	ID    string `json:"id"`
	State state  `json:"state"`
}

// confirm answers POST /uploads/confirm. Doing it again, also at the same time, changes nothing and
// says how far the upload is.
func (s *Service) confirm(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Key string `json:"key"`
	}
	if err := httpapi.DecodeJSON(w, r, maxBody, &in); err != nil {
		return err
	}
	caller := s.caller(r)
	if err := caller.Check(); err != nil {
		return err
	}
	f, err := s.byKey(r.Context(), in.Key)
	if err != nil {
		return err
	}
	if !f.visibleTo(caller) {
		return notFound()
	}
	if f.state == pending {
		if f, err = s.take(r.Context(), f, s.Now()); err != nil {
			return err
		}
	}
	switch f.state {
	case processing, ready:
		return httpapi.WriteJSON(w, http.StatusOK, confirmed{f.id, f.state})
	case rejected:
		return wasRejected(problem.Conflict, f.reason)
	case expired:
		return gone()
	default:
		return notFound()
	}
}

// take moves a pending upload whose object is as declared to processing, together with its job. It
// returns the upload as it is then, which another request may have decided.
func (s *Service) take(ctx context.Context, f *file, now time.Time) (*file, error) {
	info, err := s.stat(ctx, f.key)
	switch {
	case errors.Is(err, objects.ErrNotFound) && now.After(f.expires):
		return nil, gone()
	case errors.Is(err, objects.ErrNotFound):
		return nil, problem.New(problem.Conflict, "The file has not been uploaded yet; put it to its URL first.")
	case err != nil:
		return nil, (&problem.Error{Code: problem.Unavailable, Detail: "The object store does not answer.", RetryAfter: time.Second}).Because(err)
	}
	if reason := mismatch(f, info); reason != "" {
		if _, err = s.reject(ctx, f, reason); err != nil {
			return nil, err
		}
		return nil, wasRejected(problem.Unprocessable, reason)
	}
	won := false
	if err = s.DB.InTx(ctx, func(tx *sql.Tx) (err error) {
		if won, err = toProcessing(ctx, tx, f, info.ETag, now); err != nil || !won {
			return err
		}
		return s.enqueue(ctx, tx, f.id, info.ETag)
	}); err != nil {
		return nil, err
	}
	if won { // what this request did; the job may be done by now
		s.Queue.Poke()
		f.state, f.etag = processing, info.ETag
		return f, nil
	}
	after, err := s.byID(ctx, f.id)
	if err == nil && after == nil {
		err = notFound()
	}
	return after, err
}

func (s *Service) stat(ctx context.Context, key string) (objects.Info, error) {
	ctx, cancel := context.WithTimeout(ctx, statTime)
	defer cancel()
	return s.Store.Stat(ctx, key)
}

// The reasons of a rejection, as clients read them.
const (
	sizeMismatch  = "size-mismatch"
	typeMismatch  = "type-mismatch"
	objectChanged = "object-changed"
	objectMissing = "object-missing"
)

// mismatch is the reason to reject an object that is not what was declared, or nothing. The
// signature makes sure of both already; a store that did not enforce it must not be believed.
func mismatch(f *file, info objects.Info) string {
	switch {
	case info.Size != f.size:
		return sizeMismatch
	case info.ContentType != f.contentType:
		return typeMismatch
	}
	return ""
}

// reject ends the upload and deletes its object. It is false if another has ended it first.
func (s *Service) reject(ctx context.Context, f *file, reason string) (bool, error) {
	won, err := s.toEnded(ctx, f, rejected, reason)
	if won {
		s.discard(ctx, f)
	}
	return won, err
}

// discard deletes the object of an upload that has ended. Where it fails, the sweep does it again.
func (s *Service) discard(ctx context.Context, f *file) bool {
	err := s.Store.Delete(context.WithoutCancel(ctx), f.key)
	if err != nil {
		s.Log.WarnContext(ctx, "an object could not be deleted, trying again later", "id", f.id, "error", err)
	}
	return err == nil
}

// job is the payload of a job of jobKind.
type job struct {
	ID   string `json:"id"`
	ETag string `json:"etag"`
	// Confirmed is when the job was made. Zero in jobs of earlier versions.
	Confirmed time.Time `json:"confirmed,omitzero"`
}

func (s *Service) enqueue(ctx context.Context, tx *sql.Tx, id, etag string) error {
	payload, err := json.Marshal(job{id, etag, s.Now()})
	if err != nil {
		return fmt.Errorf("encoding a job: %w", err)
	}
	if _, err = s.Queue.EnqueueTx(ctx, tx, jobKind, payload); err != nil {
		return fmt.Errorf("enqueueing a job: %w", err)
	}
	return nil
}

// visibleTo says whether there is an upload that the caller may see and change: its owner's, and to services
// and operators everybody's.
func (f *file) visibleTo(c service.Caller) bool {
	return f != nil && f.state != deleted && c.MayUse(f.owner)
}

// admit says why the object of an upload may not be stored: each is stored once, while the upload waits for it.
func (s *Service) admit(ctx context.Context, key string) error {
	f, err := s.byKey(ctx, key)
	switch {
	case err != nil:
		return err
	case f == nil || f.state == deleted || f.state == expired || f.state == rejected:
		return objects.Refused("The upload of this URL has ended. Ask for a new URL.")
	case f.state != pending:
		return fs.ErrExist
	}
	return nil
}

func notFound() error { return problem.New(problem.NotFound, "There is no such upload.") }

func gone() error {
	return problem.New(problem.Gone, "The URL has expired and nothing was confirmed in time; ask for a new one.")
}

func wasRejected(code problem.Code, reason string) error {
	e := problem.New(code, "The file is not what it was declared to be; upload it again.")
	e.Extra = map[string]any{"reason": reason}
	return e
}
