package httpapi

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

// TestOwners asks as several callers whom something belongs to, made for whom ?owner= names.
func TestOwners(t *testing.T) {
	rt := NewRouter(slog.New(slog.NewTextHandler(io.Discard, nil)))
	users := Guard{Router: rt, Backend: "things", Check: service.Caller.Check}
	users.Handle(http.MethodPost, "/own", func(w http.ResponseWriter, r *http.Request) error {
		owner, err := OwnerOf(CallerOf(r.Context()), r.URL.Query().Get("owner"))
		if err != nil {
			return err
		}
		return WriteJSON(w, http.StatusOK, owner)
	})
	users.Handle(http.MethodPost, "/asked", func(w http.ResponseWriter, r *http.Request) error {
		owner, err := OwnerAsked(r)
		if err != nil {
			return err
		}
		return WriteJSON(w, http.StatusOK, owner)
	})
	users.Handle(http.MethodGet, "/listed", func(w http.ResponseWriter, r *http.Request) error {
		return WriteJSON(w, http.StatusOK, OwnerListed(r))
	})

	long, longest := strings.Repeat("a", maxOwner+1), strings.Repeat("a", maxOwner)
	user := map[string]string{service.SubjectHeader: "ann"}
	app := map[string]string{service.SubjectHeader: "app", service.ScopeHeader: "things:write"}
	verbose := map[string]string{service.SubjectHeader: long}
	verboseApp := map[string]string{service.SubjectHeader: long, service.ScopeHeader: "things:write"}
	for name, tt := range map[string]struct {
		caller             map[string]string
		owner              string
		own, asked, listed string // or the status of a refusal
	}{
		"nobody":                 {nil, "", "401", "401", "401"},
		"user":                   {user, "", "ann", "ann", "ann"},
		"user-names-itself":      {user, "ann", "ann", "ann", "ann"},
		"user-names-another":     {user, "bob", "403", "403", "ann"},
		"longest-user":           {map[string]string{service.SubjectHeader: longest}, "", longest, longest, longest},
		"too-long-user":          {verbose, "", "403", "403", "403"},
		"too-long-user-itself":   {verbose, long, "403", "403", "403"},
		"app":                    {app, "", "app", "", ""},
		"app-names-another":      {app, "bob", "bob", "bob", "bob"},
		"app-names-no-text":      {app, "a\xffb", "400", "400", "a\xffb"},
		"app-names-a-line":       {app, "a\nb", "400", "400", "a\nb"},
		"app-names-too-much":     {app, long, "400", "400", long},
		"too-long-app":           {verboseApp, "", "403", "", ""},
		"too-long-app-for-other": {verboseApp, "bob", "bob", "bob", "bob"},
	} {
		t.Run(name, func(t *testing.T) {
			for path, want := range map[string]string{"/own": tt.own, "/asked": tt.asked, "/listed": tt.listed} {
				method := http.MethodPost
				if path == "/listed" {
					method = http.MethodGet
				}
				r, w := httptest.NewRequest(method, path+"?owner="+url.QueryEscape(tt.owner), nil), httptest.NewRecorder()
				for k, v := range tt.caller {
					r.Header.Set(k, v)
				}
				rt.ServeHTTP(w, r)
				var got string
				if w.Code == http.StatusOK {
					if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
						t.Fatal(err)
					}
				} else {
					got = strconv.Itoa(w.Code)
				}
				if got != strings.ToValidUTF8(want, "\ufffd") {
					t.Errorf("%s: got %q %s, want %q", path, got, w.Body, want)
				}
			}
		})
	}
}
