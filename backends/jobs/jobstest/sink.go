package jobstest

import (
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"
)

// push is one request that a target received.
type push struct {
	header http.Header
	body   []byte
	at     time.Time
}

// sink is the target of the examined jobs. Each path answers as it was told to, 200 by default.
type sink struct {
	url string

	mu      sync.Mutex
	pushes  map[string][]push
	answers map[string]http.HandlerFunc
}

func newSink(t *testing.T) *sink {
	s := &sink{pushes: map[string][]push{}, answers: map[string]http.HandlerFunc{}}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

func (s *sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	s.pushes[r.URL.Path] = append(s.pushes[r.URL.Path], push{r.Header, body, time.Now()})
	answer := s.answers[r.URL.Path]
	s.mu.Unlock()
	if answer != nil {
		answer(w, r)
	}
}

// answer sets what path answers from now on.
func (s *sink) answer(path string, h http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[path] = h
}

// got is what path has received so far.
func (s *sink) got(path string) []push {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]push(nil), s.pushes[path]...)
}

// status answers with the code, the first n times if n is above 0, and 200 otherwise.
func status(code, n int, header ...string) http.HandlerFunc {
	var mu sync.Mutex
	return func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if n > 0 {
			if n--; n == 0 {
				n = -1
			}
		} else if n < 0 {
			return
		}
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
		_, _ = io.WriteString(w, "no\x00 \x1b[31mthanks")
	}
}
