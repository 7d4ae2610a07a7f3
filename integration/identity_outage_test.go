package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const outage = `{
	admin %[1]s
	gatehouse {
		data_dir %[2]s/data
	}
}
http://127.0.0.1:%[3]s {
	jwt_auth {
		jwks      %[4]s
		issuer    https://idp.example
		audience  api
		stale_for 1m
	}
	respond "hello {http.auth.user.id}"
}
`

// keyServer is an identity provider's server of keys. While it is down it hangs up on whoever asks.
type keyServer struct {
	*httptest.Server
	down atomic.Bool
	mu   sync.Mutex
	at   []time.Time // when it was asked
}

func newKeyServer(t *testing.T, set []byte) *keyServer {
	s := new(keyServer)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		s.at = append(s.at, time.Now())
		s.mu.Unlock()
		if s.down.Load() {
			panic(http.ErrAbortHandler)
		}
		_, _ = w.Write(set)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *keyServer) asked() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]time.Time(nil), s.at...)
}

// agedKeys makes the one set in the data directory one that is of no more use from end on.
func agedKeys(t *testing.T, data string, end time.Time, staleFor time.Duration) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(data, "jwks", "*.json"))
	if err != nil || len(files) != 1 {
		t.Fatalf("got the kept sets %v (%v), want one", files, err)
	}
	raw, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	var kept map[string]any
	if err = json.Unmarshal(raw, &kept); err != nil {
		t.Fatal(err)
	}
	fresh := end.Add(-staleFor)
	kept["fetched"], kept["fresh"] = fresh.Add(-10*time.Minute), fresh
	if raw, err = json.Marshal(kept); err == nil {
		err = os.WriteFile(files[0], raw, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// loaded is what a load of 1000 requests a second was answered.
type loaded struct {
	mu       sync.Mutex
	requests int
	wrong    []string // the first few
}

func (l *loaded) count(wrong string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.requests++
	if wrong != "" && len(l.wrong) < 5 {
		l.wrong = append(l.wrong, wrong)
	}
}

// TestIdentityProviderDown takes the server of the keys away from a gateway under 1000 requests a
// second: a cold start has the keys that an earlier process kept, they serve on to their end, then
// clients are told to come back; and the server is not stormed, neither then nor by unknown keys.
func TestIdentityProviderDown(t *testing.T) {
	t.Parallel()
	const workers, beat = 20, 20 * time.Millisecond // 1000 a second
	left := 6 * time.Second
	if os.Getenv("GATEHOUSE_LONG") != "" {
		left = 50 * time.Second
	}
	f := newForger(t)
	set, _ := json.Marshal(map[string]any{"keys": []any{rsaJWK(&f.rsa.PublicKey, "r1")}})
	keys := newKeyServer(t, set)
	e := &example{dir: t.TempDir(), admin: "127.0.0.1:" + freePort(t)}
	port := freePort(t)
	e.base = "http://127.0.0.1:" + port
	if err := os.WriteFile(filepath.Join(e.dir, "Caddyfile"), fmt.Appendf(nil, outage, e.admin, e.dir, port, keys.URL+"/keys"), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func() *process {
		p := start(t, e.dir, "gatehouse", "run", "--config", "Caddyfile", "--adapter", "caddyfile")
		p.waitFor("http://" + e.admin + "/startupz")
		return p
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: workers}, Timeout: 30 * time.Second}
	ask := func(token string) (int, string) {
		r, err := http.NewRequest(http.MethodGet, e.base, nil)
		if err != nil {
			return 0, err.Error()
		}
		r.Header.Set("Authorization", "Bearer "+token)
		resp, err := client.Do(r)
		if err != nil {
			return 0, err.Error()
		}
		_ = resp.Body.Close()
		return resp.StatusCode, resp.Header.Get("Retry-After")
	}
	tokens := make([]string, 1000)
	for i := range tokens {
		tokens[i] = signed(t, `{"alg":"RS256","kid":"r1"}`, payload(map[string]any{"jti": strconv.Itoa(i)}), f.rsa)
	}

	p := run()
	began := time.Now()
	if status, _ := ask(tokens[0]); status != http.StatusOK {
		t.Fatalf("while the server is up: got %d", status)
	}
	var random sync.WaitGroup
	for w := range workers {
		random.Go(func() {
			for i := range 10_000 / workers {
				token := signed(t, fmt.Sprintf(`{"alg":"RS256","kid":"random-%d-%d"}`, w, i), payload(nil), []byte("any"))
				if status, _ := ask(token); status != http.StatusUnauthorized && status != http.StatusServiceUnavailable {
					t.Errorf("a random kid: got %d, want 401, or 503 where no fetch may be made", status)
					return
				}
			}
		})
	}
	random.Wait()
	took := time.Since(began)
	if n, most := len(keys.asked()), 1+5+1+int(took/(10*time.Second)); n > most {
		t.Errorf("10 000 random kids in %s: the server was asked %d times, want %d at most", took, n, most)
	}
	t.Logf("10 000 random kids took %s, the server was asked %d times in all", took.Round(time.Millisecond), len(keys.asked()))

	p.kill()
	keys.down.Store(true)
	before := len(keys.asked())
	run()
	end := time.Now().Add(left) // the kept set is read when the first request needs it
	agedKeys(t, filepath.Join(e.dir, "data"), end, time.Minute)
	var known, gone loaded
	var load sync.WaitGroup
	for w := range workers {
		load.Go(func() {
			tick := time.NewTicker(beat)
			defer tick.Stop()
			for i := w; ; i += workers {
				from := time.Now()
				if from.After(end.Add(5 * time.Second)) {
					return
				}
				status, retry := ask(tokens[i%len(tokens)])
				got := fmt.Sprintf("%s from the end: got %d, Retry-After %q", from.Sub(end), status, retry)
				switch seconds, _ := strconv.Atoi(retry); {
				case time.Now().Before(end):
					if status == http.StatusOK {
						got = ""
					}
					known.count(got)
				case from.After(end):
					if status == http.StatusServiceUnavailable && seconds > 0 {
						got = ""
					}
					gone.count(got)
				}
				<-tick.C
			}
		})
	}
	load.Wait()
	if known.requests == 0 || len(known.wrong) > 0 {
		t.Errorf("of %d requests before the end some were not answered with 200: %v", known.requests, known.wrong)
	}
	if gone.requests == 0 || len(gone.wrong) > 0 {
		t.Errorf("of %d requests after the end some were not answered with 503: %v", gone.requests, gone.wrong)
	}
	asked := keys.asked()[before:]
	for i := 1; i < len(asked); i++ {
		least := 800 * time.Millisecond // without keys the pause doubles from 1 s, less a tenth
		if asked[i].Before(end) {
			least = 26 * time.Second // with keys from 30 s
		}
		if gap := asked[i].Sub(asked[i-1]); gap < least {
			t.Errorf("%s from the end the server was asked again after %s", asked[i].Sub(end), gap)
		}
	}
	t.Logf("%d requests passed before the end, %d got 503 in 5 s after it; the server was asked %d times", known.requests, gone.requests, len(asked))

	keys.down.Store(false)
	eventually(t, 35*time.Second, func() error {
		if status, _ := ask(tokens[0]); status != http.StatusOK {
			return fmt.Errorf("once the server is up: got %d", status)
		}
		return nil
	})
}
