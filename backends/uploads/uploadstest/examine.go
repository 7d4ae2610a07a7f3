// Package uploadstest examines a deployment of the uploads backend over HTTP, as its clients use
// it: the same judge for the backend alone, inside the gateway, and behind a proxy.
package uploadstest

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// patience is how long an upload may take from its confirmation to its end.
const patience = 30 * time.Second

// Examine judges the deployment at base, such as http://127.0.0.1:8080, which must have the
// default settings of uploads, a queue that runs, and /uploads/* routed to the backend. client is
// used as it is but follows no redirect. subject makes a request one of the named user in the way
// of the deployment: by a token, or by the header Gatehouse-Subject where nothing stands in front;
// the names are plain ASCII words. Requests to presigned URLs are sent without a subject, as
// browsers do, so no authentication may stand in front of /uploads/objects/*.
//
// It can run several times on one deployment, with at least the life of a URL (5 minutes) between.
func Examine(t *testing.T, base string, client *http.Client, subject func(r *http.Request, name string)) {
	following := *client
	following.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	x := &examiner{base: strings.TrimSuffix(base, "/"), client: &following, subject: subject}
	t.Run("upload-and-download", x.uploadAndDownload)
	t.Run("put-refusals", x.putRefusals)
	t.Run("confirm-before-the-put", x.confirmBeforePut)
	t.Run("confirm-races", x.confirmRaces)
	t.Run("lie-about-the-type", x.lie)
	t.Run("foreign-subject", x.foreigner)
	t.Run("delete", x.remove)
	t.Run("preflight", x.preflight)
	t.Run("bad-input", x.badInput)
	t.Run("too-many-open", x.tooManyOpen)
}

type examiner struct {
	base    string
	client  *http.Client
	subject func(r *http.Request, name string)
}

// ann is the user who uploads, bob the one who must not see it.
const ann, bob = "uploads-ann", "uploads-bob"

// answer is a response that has been read.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) text(member string) string {
	var doc map[string]any
	_ = json.Unmarshal(a.body, &doc)
	s, _ := doc[member].(string)
	return s
}

// do may be called from any goroutine: a request that fails marks the test as failed and has no status.
func (x *examiner) do(t *testing.T, r *http.Request) answer {
	t.Helper()
	resp, err := x.client.Do(r)
	if err != nil {
		t.Error(err)
		return answer{}
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Error(err)
	}
	return answer{resp.StatusCode, resp.Header, body}
}

// call is an API request of the named user. body is sent as it is if it is a string, as JSON otherwise.
func (x *examiner) call(t *testing.T, who, method, path string, body any) answer {
	t.Helper()
	raw, ok := body.(string)
	if !ok && body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		raw = string(b)
	}
	r, err := http.NewRequestWithContext(t.Context(), method, x.base+path, strings.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	if raw != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	x.subject(r, who)
	return x.do(t, r)
}

// ticket is what presign answers.
type ticket struct {
	ID        string            `json:"id"`
	Key       string            `json:"key"`
	Method    string            `json:"method"`
	URL       string            `json:"url"`
	Headers   map[string]string `json:"headers"`
	ExpiresAt time.Time         `json:"expires_at"`
}

func (x *examiner) presign(t *testing.T, who, filename, contentType string, size int) ticket {
	t.Helper()
	a := x.call(t, who, http.MethodPost, "/uploads/presign", map[string]any{"filename": filename, "content_type": contentType, "size": size})
	var tk ticket
	if err := json.Unmarshal(a.body, &tk); err != nil || a.status != http.StatusCreated {
		t.Fatalf("presign: %d %s", a.status, a.body)
	}
	if tk.ID == "" || tk.Method != http.MethodPut || !strings.HasPrefix(tk.Key, "objects/") || time.Until(tk.ExpiresAt) <= 0 {
		t.Fatalf("presign: %s", a.body)
	}
	return tk
}

// put sends content to the ticket's URL with the ticket's headers, changed by change.
func (x *examiner) put(t *testing.T, tk ticket, content []byte, change func(r *http.Request)) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), tk.Method, tk.URL, bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range tk.Headers {
		r.Header.Set(name, v)
	}
	if change != nil {
		change(r)
	}
	return x.do(t, r)
}

func (x *examiner) mustPut(t *testing.T, tk ticket, content []byte) {
	t.Helper()
	if a := x.put(t, tk, content, nil); a.status != http.StatusOK || a.header.Get("ETag") == "" {
		t.Fatalf("PUT: %d %s", a.status, a.body)
	}
}

func (x *examiner) confirm(t *testing.T, who, key string) answer {
	t.Helper()
	return x.call(t, who, http.MethodPost, "/uploads/confirm", map[string]string{"key": key})
}

// await polls until the upload has left processing, and checks how it ended.
func (x *examiner) await(t *testing.T, who, id, want string) answer {
	t.Helper()
	for deadline := time.Now().Add(patience); ; <-time.After(20 * time.Millisecond) {
		a := x.call(t, who, http.MethodGet, "/uploads/"+id, nil)
		if a.status != http.StatusOK {
			t.Fatalf("GET /uploads/%s: %d %s", id, a.status, a.body)
		}
		switch state := a.text("state"); {
		case state == want:
			return a
		case state != "processing" || time.Now().After(deadline):
			t.Fatalf("the upload is %s after its confirmation, want %s: %s", state, want, a.body)
		}
	}
}

// upload is the way of a good file from presign to ready.
func (x *examiner) upload(t *testing.T, who, filename, contentType string, content []byte) ticket {
	t.Helper()
	tk := x.presign(t, who, filename, contentType, len(content))
	x.mustPut(t, tk, content)
	if a := x.confirm(t, who, tk.Key); a.status != http.StatusOK || a.text("id") != tk.ID {
		t.Fatalf("confirm: %d %s", a.status, a.body)
	}
	x.await(t, who, tk.ID, "ready")
	return tk
}

// download follows the redirect of the upload's content.
func (x *examiner) download(t *testing.T, who, id string, header http.Header) answer {
	t.Helper()
	a := x.call(t, who, http.MethodGet, "/uploads/"+id+"/content", nil)
	if a.status != http.StatusFound || a.header.Get("Cache-Control") != "no-store" {
		t.Fatalf("content: %d %v %s", a.status, a.header, a.body)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, a.header.Get("Location"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if header != nil {
		r.Header = header
	}
	return x.do(t, r)
}
