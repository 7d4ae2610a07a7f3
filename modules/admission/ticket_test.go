package admission

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestStreamsGiveTheirPlaceBack(t *testing.T) {
	d := newDesk(t, fixed(1, 9))
	for name, begin := range map[string]func(*ticket){
		"event-stream": func(k *ticket) {
			k.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
			k.WriteHeader(http.StatusOK)
		},
		"upgrade": func(k *ticket) { k.WriteHeader(http.StatusSwitchingProtocols) },
	} {
		t.Run(name, func(t *testing.T) {
			k := d.in(normal)
			k.WriteHeader(http.StatusEarlyHints)
			if d.held != 1 {
				t.Error("a hint is no answer")
			}
			begin(k)
			other := d.in(normal)
			d.done(other)
			d.done(k)
			if d.held != 0 || d.classes[0].streams != 0 {
				t.Errorf("got %d held and %d streams, want none", d.held, d.classes[0].streams)
			}
		})
	}
}

// slowBody is a client that sends a piece when it is told to.
type slowBody struct{ pieces chan error }

func (s slowBody) Read([]byte) (int, error) { return 1, <-s.pieces }
func (slowBody) Close() error               { return nil }

// TestSlowClientsHoldNoPlace: those that send or take slowly do not keep others out.
func TestSlowClientsHoldNoPlace(t *testing.T) {
	d := newDesk(t, fixed(3, 9))
	reads, sends, works := d.in(normal), d.in(normal), d.in(normal)
	reads.WriteHeader(http.StatusOK)
	client := slowBody{make(chan error)}
	sends.body = client
	over := make(chan struct{})
	go func() {
		defer close(over)
		_, _ = io.ReadAll(body{sends})
	}()
	client.pieces <- nil
	for !sends.reading.Load() {
		runtime.Gosched()
	}
	d.queue(low)
	d.pass(streamAge)
	a := d.in(normal)
	if d.held != 3 || d.classes[0].streams != 2 {
		t.Errorf("got %d held and %d streams, want 3 and 2", d.held, d.classes[0].streams)
	}
	client.pieces <- io.EOF
	<-over
	if d.held != 4 || d.classes[0].streams != 1 {
		t.Errorf("the body is there: got %d held and %d streams, want 4 and 1", d.held, d.classes[0].streams)
	}
	for _, k := range []*ticket{reads, sends, works, a} {
		d.done(k)
	}
	sends.aside.Store(true)
	d.rejoin(d.now, sends) // a transport reads on after the end
	if d.held != 1 || d.classes[0].streams != 0 {
		t.Errorf("got %d held and %d streams, want the one that waited", d.held, d.classes[0].streams)
	}
}

func TestJudge(t *testing.T) {
	statusOf := func(err error) (int, bool) {
		if err.Error() == "504" {
			return http.StatusGatewayTimeout, true
		}
		return http.StatusBadGateway, err.Error() == "502"
	}
	for name, tc := range map[string]struct {
		status int
		err    error
		gone   bool
		cache  string
		want   outcome
	}{
		"answer":         {200, nil, false, "", fine},
		"no-byte":        {0, nil, false, "", fine},
		"client-error":   {404, nil, false, "", fine},
		"server-error":   {500, nil, false, "", ignored},
		"app-down":       {0, errors.New("502"), false, "", ignored},
		"app-too-late":   {0, errors.New("504"), false, "", overloaded},
		"app-overloaded": {503, nil, false, "", overloaded},
		"other-error":    {0, errors.New("other"), false, "", ignored},
		"client-left":    {504, nil, true, "", ignored},
		"broken-off":     {200, http.ErrAbortHandler, false, "", ignored},
		"hit":            {200, nil, false, "gatehouse; hit; ttl=5", ignored},
		"miss":           {200, nil, false, "gatehouse; fwd=uri-miss; stored", fine},
	} {
		t.Run(name, func(t *testing.T) {
			k := &ticket{ResponseWriter: httptest.NewRecorder(), status: tc.status}
			if tc.cache != "" {
				k.Header().Set("Cache-Status", tc.cache)
			}
			if got := k.judge(tc.err, tc.gone, statusOf); got != tc.want {
				t.Errorf("got %d, want %d", got, tc.want)
			}
		})
	}
}

// TestLatencyIsTheApps: the time that the client takes to send its body is not the app's.
func TestLatencyIsTheApps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, fixed(1, 0))
		d.now = time.Now()
		k := d.in(normal)
		k.body = slowReader{io.NopCloser(strings.NewReader("abc"))}
		if _, err := io.ReadAll(body{k}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(70 * time.Millisecond) //nolint:forbidigo // synthetic time
		_, _ = io.WriteString(k, "done")
		if k.took != 70*time.Millisecond {
			t.Errorf("got %v, want 70ms", k.took)
		}
	})
}

type slowReader struct{ io.ReadCloser }

func (s slowReader) Read(p []byte) (int, error) {
	time.Sleep(time.Second) //nolint:forbidigo // synthetic time
	return s.ReadCloser.Read(p[:1])
}
