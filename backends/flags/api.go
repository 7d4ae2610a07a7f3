package flags

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"sort"
	"strconv"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/httpapi"
	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

// view is a flag as the API shows it.
type view struct {
	Key string `json:"key"`
	Definition
	Version   int64     `json:"version"`
	UpdatedAt time.Time `json:"updated_at"`
}

func viewOf(f *Flag) view {
	return view{Key: f.Key, Definition: f.Definition, Version: f.Version, UpdatedAt: f.UpdatedAt}
}

// list answers GET /flags, by key.
func (s *Service) list(w http.ResponseWriter, r *http.Request) error {
	limit, cursor, err := httpapi.PageOf(r)
	if err != nil {
		return err
	}
	after, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil || cursor != "" && !ValidKey(string(after)) {
		return problem.New(problem.InvalidRequest, "cursor is not one that this list gave out.")
	}
	snap := s.live.snap.Load()
	keys := snap.keys[sort.Search(len(snap.keys), func(i int) bool { return snap.keys[i] > string(after) }):]
	return httpapi.WriteJSON(w, http.StatusOK, httpapi.PageFrom(keys, limit,
		func(key string) string { return base64.RawURLEncoding.EncodeToString([]byte(key)) },
		func(key string) view { return viewOf(snap.flags[key]) }))
}

// get answers GET /flags/{key}; If-None-Match with the newest version is 304.
func (s *Service) get(w http.ResponseWriter, r *http.Request) error {
	key, c, err := addressed(r)
	if err != nil {
		return err
	}
	f := s.live.flag(key)
	if f == nil {
		return notFound(key)
	}
	version := strconv.FormatInt(f.Version, 10)
	w.Header().Set("ETag", `"`+version+`"`)
	if c.noneMatch.weakly(version) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	return httpapi.WriteJSON(w, http.StatusOK, viewOf(f))
}

// addressed is the flag that the request is for, and its conditions.
func addressed(r *http.Request) (key string, c conditions, err error) {
	key = r.PathValue("key")
	if err = checkKey(key); err != nil {
		return "", c, err
	}
	c, err = readConditions(r.Header)
	return key, c, err
}

// put answers PUT /flags/{key}: 201 for a new flag, 200 for a replaced one, 412 where If-Match or
// If-None-Match is against it.
func (s *Service) put(w http.ResponseWriter, r *http.Request) error {
	key, c, err := addressed(r)
	if err != nil {
		return err
	}
	var body json.RawMessage
	if err = httpapi.DecodeJSON(w, r, maxBody, &body); err != nil {
		return err
	}
	d, err := ParseDefinition(body)
	if err != nil {
		return err
	}
	f, created, err := s.set(r.Context(), key, d, c)
	if err != nil {
		return err
	}
	w.Header().Set("ETag", `"`+strconv.FormatInt(f.Version, 10)+`"`)
	if created {
		return httpapi.WriteJSON(w, http.StatusCreated, viewOf(f))
	}
	return httpapi.WriteJSON(w, http.StatusOK, viewOf(f))
}

// delete answers DELETE /flags/{key}: 204, 404 for a flag that is not there, 412 where If-Match is against it.
func (s *Service) delete(w http.ResponseWriter, r *http.Request) error {
	key, c, err := addressed(r)
	if err != nil {
		return err
	}
	if err = s.remove(r.Context(), key, c); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
