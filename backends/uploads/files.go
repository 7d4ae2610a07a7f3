package uploads

import (
	"net/http"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/httpapi"
	"github.com/gatehouse-proxy/gatehouse/backends/internal/objects"
	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

// view is an upload as its owner sees it.
type view struct {
	ID          string     `json:"id"`
	Key         string     `json:"key"`
	State       state      `json:"state"`
	Filename    string     `json:"filename"`
	ContentType string     `json:"content_type"`
	Size        int64      `json:"size"`
	Owner       string     `json:"owner,omitempty"`
	Reason      string     `json:"reason,omitempty"`
	CreatedAt   time.Time  `json:"created_at"`
	ReadyAt     *time.Time `json:"ready_at,omitempty"`
}

// show answers GET /uploads/{id}.
func (s *Service) show(w http.ResponseWriter, r *http.Request) error {
	f, err := s.find(r)
	if err != nil {
		return err
	}
	v := view{
		ID: f.id, Key: f.key, State: f.state, Filename: f.filename, ContentType: f.contentType, Size: f.size,
		Owner: f.owner, Reason: f.reason, CreatedAt: f.created.UTC(),
	}
	if !f.ready.IsZero() {
		at := f.ready.UTC()
		v.ReadyAt = &at
	}
	w.Header().Set("Cache-Control", "no-store")
	return httpapi.WriteJSON(w, http.StatusOK, v)
}

// content answers GET /uploads/{id}/content with a presigned URL that downloads the file.
func (s *Service) content(w http.ResponseWriter, r *http.Request) error {
	f, err := s.find(r)
	if err != nil {
		return err
	}
	if f.state != ready {
		e := problem.New(problem.Conflict, "The upload is %s; only one that is ready has content.", f.state)
		e.Extra = map[string]any{"state": f.state}
		return e
	}
	base, err := s.base(r)
	if err != nil {
		return err
	}
	spec := objects.GetSpec{Disposition: attachment(f.filename), ContentType: f.contentType}
	w.Header().Set("Location", s.Store.PresignGet(s.Now(), base, f.key, spec, s.expires))
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusFound)
	return nil
}

// remove answers DELETE /uploads/{id}.
func (s *Service) remove(w http.ResponseWriter, r *http.Request) error {
	for {
		f, err := s.find(r)
		if err != nil {
			return err
		}
		won, err := s.toEnded(r.Context(), f, deleted, "")
		if err != nil {
			return err
		}
		if won {
			s.discard(r.Context(), f)
			w.WriteHeader(http.StatusNoContent)
			return nil
		}
		// It has moved on since it was read, which an upload does a few times at most.
	}
}

// find is the upload of the path; one that the caller may not see is not found.
func (s *Service) find(r *http.Request) (*file, error) {
	caller := s.caller(r)
	if err := caller.Check(); err != nil {
		return nil, err
	}
	f, err := s.byID(r.Context(), r.PathValue("id"))
	if err == nil && !f.visibleTo(caller) {
		err = notFound()
	}
	return f, err
}
