package cache

import (
	"bufio"
	"context"
	"database/sql"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/integration/pgtest"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

func send(t testing.TB, method, url, body string) (status int, answer string) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestRestart(t *testing.T) { pgtest.Each(t, testRestart) }

func testRestart(t *testing.T, url string) {
	dir := t.TempDir()
	_, srv, stop := start(t, dir, Config{}, url)
	send(t, "PUT", srv.URL+"/cache/kept?tag=blue", "v")
	send(t, "PUT", srv.URL+"/cache/tagged?tag=red", "v")
	send(t, "PUT", srv.URL+"/cache/short?ttl=1ms", "v")
	send(t, "POST", srv.URL+"/cache/invalidate", `{"tags":["red"]}`)
	stop()

	s, srv, stop := start(t, dir, Config{}, url)
	for key, want := range map[string]int{"kept": 200, "tagged": 404, "short": 404} {
		if got, _ := send(t, "GET", srv.URL+"/cache/"+key, ""); got != want {
			t.Errorf("%s: got %d after a restart, want %d", key, got, want)
		}
	}
	// Generations go on where they were, or this invalidation would be older than the value.
	send(t, "PUT", srv.URL+"/cache/tagged?tag=red", "v2")
	if got, _ := send(t, "GET", srv.URL+"/cache/tagged", ""); got != 200 {
		t.Errorf("a value written after the restart: got %d, want 200", got)
	}
	send(t, "POST", srv.URL+"/cache/invalidate", `{"tags":["blue"]}`)
	if got, _ := send(t, "GET", srv.URL+"/cache/kept", ""); got != 404 {
		t.Errorf("invalidated after the restart: got %d, want 404", got)
	}
	if got := sum(t, s); got != s.state.bytes {
		t.Errorf("the rows have %d bytes, counted were %d", got, s.state.bytes)
	}
	stop()
}

func sum(t *testing.T, s *Service) (n int64) {
	t.Helper()
	if err := s.state.db.Read.QueryRow("SELECT COALESCE(SUM(size), 0) FROM cache_entries").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestCrash kills a process that acknowledges writes, and looks for every acknowledged one.
func TestCrash(t *testing.T) {
	if dir := os.Getenv("CACHE_TEST_CRASH_DIR"); dir != "" {
		_, srv, _ := start(t, dir, Config{})
		_, _ = fmt.Fprintln(os.Stdout, "listening", srv.URL)
		_, _ = io.Copy(io.Discard, os.Stdin) // until it is killed
		return
	}
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run", "^TestCrash$", "-test.v")
	cmd.Env = append(os.Environ(), "CACHE_TEST_CRASH_DIR="+dir)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stdin.Close() }()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err = cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var base string
	for lines := bufio.NewScanner(out); base == "" && lines.Scan(); {
		base, _ = strings.CutPrefix(lines.Text(), "listening ")
		if !strings.HasPrefix(base, "http") {
			base = ""
		}
	}
	if base == "" {
		_ = cmd.Process.Kill()
		t.Fatal("the process does not listen")
	}
	send(t, "PUT", base+"/cache/gone?tag=gone", "v")
	send(t, "POST", base+"/cache/invalidate", `{"tags":["gone"]}`)
	var acknowledged [4]atomic.Int64
	var wg sync.WaitGroup
	for w := range acknowledged {
		wg.Go(func() {
			for i := int64(1); ; i++ {
				req, _ := http.NewRequest("PUT", fmt.Sprintf("%s/cache/%d-%d", base, w, i), strings.NewReader("v"))
				resp, err := http.DefaultClient.Do(req)
				if err != nil {
					return
				}
				_ = resp.Body.Close()
				if resp.StatusCode == http.StatusCreated {
					acknowledged[w].Store(i)
				}
			}
		})
	}
	for deadline := time.Now().Add(20 * time.Second); acknowledged[0].Load() < 20 && time.Now().Before(deadline); {
		<-time.After(5 * time.Millisecond)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	wg.Wait()

	_, srv, stop := start(t, dir, Config{})
	defer stop()
	for w := range acknowledged {
		last := acknowledged[w].Load()
		if last == 0 {
			t.Fatalf("writer %d had no answer", w)
		}
		for i := int64(1); i <= last; i++ {
			if got, _ := send(t, "GET", fmt.Sprintf("%s/cache/%d-%d", srv.URL, w, i), ""); got != 200 {
				t.Fatalf("write %d of %d of writer %d was acknowledged and is lost", i, last, w)
			}
		}
	}
	if got, _ := send(t, "GET", srv.URL+"/cache/gone", ""); got != 404 {
		t.Errorf("an acknowledged invalidation is lost: got %d", got)
	}
}

// Two instances with different settings, as during a reload, agree on every value.
func TestOverlap(t *testing.T) { pgtest.Each(t, testOverlap) }

func testOverlap(t *testing.T, url string) {
	dir := t.TempDir()
	one, srv1, stop1 := start(t, dir, Config{}, url)
	two, srv2, stop2 := start(t, dir, Config{Memory: 32 << 20}, url)
	defer stop2()
	if one.state != two.state {
		t.Fatal("the instances do not share their state")
	}
	if got := two.state.mem.GetMaximum(); got != 32<<20 {
		t.Errorf("got a memory of %d bytes, want the newest setting", got)
	}
	send(t, "PUT", srv1.URL+"/cache/k?tag=t", "one")
	send(t, "GET", srv2.URL+"/cache/k", "")
	send(t, "PUT", srv1.URL+"/cache/k?tag=t", "two")
	if _, got := send(t, "GET", srv2.URL+"/cache/k", ""); got != "two" {
		t.Errorf("got %q, want what the other instance wrote", got)
	}
	stop1()
	send(t, "POST", srv2.URL+"/cache/invalidate", `{"tags":["t"]}`)
	if got, _ := send(t, "GET", srv2.URL+"/cache/k", ""); got != 404 {
		t.Errorf("got %d, want 404", got)
	}
}

// Readers and a writer of the same key: once a write was acknowledged nobody reads what was before.
func TestReadsNeverGoBack(t *testing.T) { pgtest.Each(t, testReadsNeverGoBack) }

func testReadsNeverGoBack(t *testing.T, url string) {
	s, _, stop := start(t, t.TempDir(), Config{}, url)
	defer stop()
	var newest atomic.Int64
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				least := newest.Load()
				it, _, err := s.state.lookup(context.Background(), "k")
				if err != nil {
					t.Error(err)
					return
				}
				var got int64
				if it != nil {
					_, _ = fmt.Sscan(string(it.value), &got)
				}
				if got < least {
					t.Errorf("read %d after %d was acknowledged", got, least)
					return
				}
			}
		})
	}
	for i := int64(1); i <= 60; i++ {
		it := newItem([]byte(fmt.Sprint(i)), "text/plain", nil, s.state.mark(URL{Path: "k"}), time.Minute)
		if _, _, err := s.state.save("k", it, false, nil); err != nil {
			t.Fatal(err)
		}
		newest.Store(i)
		s.state.mem.Invalidate(URL{Path: "k"}) // as an eviction does, so that readers load from disk
	}
	close(done)
	wg.Wait()
}

func TestDiskIsBounded(t *testing.T) { pgtest.Each(t, testDiskIsBounded) }

func testDiskIsBounded(t *testing.T, url string) {
	s, srv, stop := start(t, t.TempDir(), Config{Disk: 1 << 20, MaxValue: 100 << 10}, url)
	defer stop()
	for i := range 40 {
		send(t, "PUT", fmt.Sprint(srv.URL, "/cache/", i), strings.Repeat("x", 50<<10))
		if got := sum(t, s); got > 1<<20 || got != s.state.bytes {
			t.Fatalf("after %d values: got %d bytes (counted %d), want at most 1 MiB", i+1, got, s.state.bytes)
		}
	}
	s.state.mem.InvalidateAll()
	for key, want := range map[string]int{"0": 404, "39": 200} {
		if got, _ := send(t, "GET", srv.URL+"/cache/"+key, ""); got != want {
			t.Errorf("key %s: got %d, want %d", key, got, want)
		}
	}
}

func TestSweep(t *testing.T) { pgtest.Each(t, testSweep) }

func testSweep(t *testing.T, url string) {
	s, srv, stop := start(t, t.TempDir(), Config{}, url)
	defer stop()
	for i := range 20 {
		send(t, "PUT", fmt.Sprint(srv.URL, "/cache/", i, "?ttl=1h"), "v")
	}
	send(t, "PUT", srv.URL+"/cache/kept?ttl=3h", "v")
	if err := s.sweep(t.Context(), time.Now().Add(2*time.Hour)); err != nil {
		t.Fatal(err)
	}
	var n int
	if err := s.state.db.Read.QueryRow("SELECT COUNT(*) FROM cache_entries").Scan(&n); err != nil || n != 1 {
		t.Errorf("got %d rows, %v, want 1", n, err)
	}
	if got := sum(t, s); got != s.state.bytes {
		t.Errorf("the rows have %d bytes, counted were %d", got, s.state.bytes)
	}
	if err := s.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestTagFloor(t *testing.T) { pgtest.Each(t, testTagFloor) }

func testTagFloor(t *testing.T, url string) {
	dir := t.TempDir()
	s, srv, stop := start(t, dir, Config{}, url)
	for i := range 6 {
		send(t, "PUT", fmt.Sprint(srv.URL, "/cache/", i, "?tag=all"), "v")
		send(t, "POST", srv.URL+"/cache/invalidate", fmt.Sprintf(`{"tags":["t%d"]}`, i))
	}
	cutoff := s.state.tags.excess(4)
	if cutoff == 0 || s.state.tags.excess(6) != 0 {
		t.Fatalf("got cutoff %d for six tags of at most four, %d of at most six", cutoff, s.state.tags.excess(6))
	}
	err := s.state.write(func(ctx context.Context, tx *sql.Tx) error { return s.state.raise(ctx, tx, cutoff) },
		func() { s.state.tags.raise(cutoff) })
	if err != nil {
		t.Fatal(err)
	}
	stop()
	s, srv, stop = start(t, dir, Config{}, url)
	defer stop()
	if got := len(s.state.tags.last); got != 2 || s.state.tags.floor != cutoff {
		t.Errorf("got %d tags above the floor %d after a restart, want 2 above %d", got, s.state.tags.floor, cutoff)
	}
	for key, want := range map[string]int{"0": 404, "5": 200} {
		if got, _ := send(t, "GET", srv.URL+"/cache/"+key, ""); got != want {
			t.Errorf("key %s: got %d, want %d", key, got, want)
		}
	}
}

func TestLargeValuesStayOnDisk(t *testing.T) { pgtest.Each(t, testLargeValuesStayOnDisk) }

func testLargeValuesStayOnDisk(t *testing.T, url string) {
	s, srv, stop := start(t, t.TempDir(), Config{Memory: 1 << 20}, url)
	defer stop()
	send(t, "PUT", srv.URL+"/cache/k", "small")
	large := strings.Repeat("x", 100<<10)
	send(t, "PUT", srv.URL+"/cache/k", large)
	for range 2 {
		if _, got := send(t, "GET", srv.URL+"/cache/k", ""); got != large {
			t.Errorf("got %d bytes, want %d", len(got), len(large))
		}
	}
	if _, ok := s.state.mem.GetIfPresent(URL{Path: "k"}); ok {
		t.Error("a value of more than 1/64 of the memory is in memory")
	}
}

// Objects in memory: what http_cache relies on.
func TestObjects(t *testing.T) { pgtest.Each(t, testObjects) }

func testObjects(t *testing.T, url string) {
	s, _, stop := start(t, t.TempDir(), Config{}, url)
	defer stop()
	u := URL{Scheme: "http", Host: "h", Path: "/x"}
	put := func(m Mark, o Object) bool { return s.Store(u, m, func(Object) Object { return o }) }
	m := s.Mark(u)
	if !put(m, &item{value: []byte("one")}) {
		t.Fatal("not stored")
	}
	if o, ok := s.Load(u); !ok || string(o.(*item).value) != "one" {
		t.Errorf("got %v, %t", o, ok)
	}
	s.Forget(u)
	if _, ok := s.Load(u); ok {
		t.Error("still there after Forget")
	}
	if put(m, &item{}) {
		t.Error("stored although it was begun before Forget")
	}
	stamp := s.NewStamp(s.Mark(u), []string{"a", "b"})
	other := s.NewStamp(s.Mark(u), []string{"c"})
	if !s.Valid(stamp) || !s.Valid(other) {
		t.Error("not valid from the start")
	}
	if err := s.state.drop(nil, []string{"b"}); err != nil {
		t.Fatal(err)
	}
	if s.Valid(stamp) || !s.Valid(other) {
		t.Errorf("after an invalidation of b: got %t and %t, want false and true", s.Valid(stamp), s.Valid(other))
	}
	if !s.Valid(s.NewStamp(s.Mark(u), []string{"b"})) {
		t.Error("what was begun after the invalidation is not valid")
	}
	quarter := int(s.state.mem.GetMaximum() / 4)
	if !s.Reserve(quarter) || s.Reserve(1) {
		t.Error("Reserve gives more or less than a quarter of the memory")
	}
	s.Release(quarter)
	if !s.Reserve(1) {
		t.Error("released bytes are not there again")
	}
	s.Release(1)
}

func BenchmarkGetMemory(b *testing.B) {
	s, _, stop := start(b, b.TempDir(), Config{})
	defer stop()
	if _, _, err := s.state.save("k", newItem(make([]byte, 1024), "a/b", []string{"t", "u"}, s.state.mark(URL{Path: "k"}), time.Hour), false, nil); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if it, level, _ := s.state.lookup(context.Background(), "k"); it == nil || level != "memory" {
			b.Fatal("not in memory")
		}
	}
}

func BenchmarkPutParallel(b *testing.B) {
	s, _, stop := start(b, b.TempDir(), Config{})
	defer stop()
	var n atomic.Int64
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			key := fmt.Sprint(n.Add(1) % 1000)
			it := newItem(make([]byte, 1024), "a/b", nil, s.state.mark(URL{Path: key}), time.Hour)
			if _, _, err := s.state.save(key, it, false, nil); err != nil {
				b.Error(err)
			}
		}
	})
}

var _ service.Service = (*Service)(nil)

// TestRefusedConfigurationLeavesTheBounds: a service that is opened and closed again, as by a reload
// that fails elsewhere, must not leave its bounds on the cache of the one that goes on.
func TestRefusedConfigurationLeavesTheBounds(t *testing.T) {
	dir := t.TempDir()
	running, _, stop := start(t, dir, Config{Memory: 8 << 20, Disk: 32 << 20})
	defer stop()
	refused, err := New(Config{Memory: 1 << 20, Disk: 16 << 20}, Deps{State: running.state, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if got := running.state.mem.GetMaximum(); got != 1<<20 {
		t.Errorf("the new bounds are not in force: %d", got)
	}
	if err = refused.Close(); err != nil {
		t.Fatal(err)
	}
	if mem, disk := running.state.mem.GetMaximum(), running.state.disk.Load(); mem != 8<<20 || disk != 32<<20 {
		t.Errorf("got %d bytes of memory and %d on disk, want those of the running configuration", mem, disk)
	}
}

// TestInstancesOnOneDatabase works on one PostgreSQL with two caches that cannot see each other.
func TestInstancesOnOneDatabase(t *testing.T) {
	url := pgtest.Start(t, pgtest.Fast).URL
	one, first, stop := start(t, t.TempDir(), Config{}, url)
	defer stop()
	two, second, stop := start(t, t.TempDir(), Config{}, url)
	defer stop()
	get := func(base, key string, want int, value string) {
		t.Helper()
		if status, body := send(t, "GET", base+"/cache/"+key, ""); status != want || value != "" && body != value {
			t.Errorf("%s: got %d %q, want %d %q", key, status, body, want, value)
		}
	}
	send(t, "PUT", first.URL+"/cache/k?tag=red", "1")
	get(second.URL, "k", 200, "1")
	send(t, "PUT", second.URL+"/cache/k?tag=red", "2")
	get(first.URL, "k", 200, "2")
	send(t, "DELETE", first.URL+"/cache/k", "")
	get(second.URL, "k", 404, "")
	// What was invalidated at the other instance is so at once, and what is put after that is not.
	for i := range 20 {
		value := fmt.Sprint("v", i)
		send(t, "PUT", first.URL+"/cache/k?tag=red", value)
		get(second.URL, "k", 200, value)
		send(t, "POST", second.URL+"/cache/invalidate", `{"tags":["red"]}`)
		get(first.URL, "k", 404, "")
	}
	// Objects in memory follow.
	stamp := one.NewStamp(one.Mark(URL{Path: "/"}), []string{"blue"})
	other := one.NewStamp(one.Mark(URL{Path: "/"}), []string{"green"})
	if !one.Valid(stamp) {
		t.Fatal("an object is not valid at first")
	}
	send(t, "POST", second.URL+"/cache/invalidate", `{"tags":["blue"]}`)
	eventually(t, "the other instance to know the invalidation", func() bool { return !one.Valid(stamp) })
	if !one.Valid(other) {
		t.Error("an object with another tag is not valid any more")
	}
	if !one.Valid(one.NewStamp(one.Mark(URL{Path: "/"}), []string{"blue"})) {
		t.Error("an object that was made after the invalidation is not valid")
	}
	// A floor that one instance raises holds at the other, and is never lowered.
	late := two.NewStamp(two.Mark(URL{Path: "/"}), []string{"white"})
	cutoff := two.state.tags.generation.Load() + 1
	for _, c := range []uint64{cutoff, cutoff - 1} {
		if err := one.state.write(func(ctx context.Context, tx *sql.Tx) error { return one.state.raise(ctx, tx, c) }, nil); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the other instance to know the floor", func() bool { return !two.Valid(late) })
}

// TestADeletionElsewhereBeatsAFill deletes or puts at one instance what the other is fetching.
func TestADeletionElsewhereBeatsAFill(t *testing.T) {
	for name, act := range map[string]struct{ method, body, want string }{
		"delete": {"DELETE", "", ""},
		"put":    {"PUT", "put", "put"},
		"tag":    {"POST", `{"tags":["red"]}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			url := pgtest.Start(t, pgtest.Fast).URL
			_, first, stop := start(t, t.TempDir(), Config{FillAllow: []string{"127.0.0.1"}}, url)
			defer stop()
			_, second, stop := start(t, t.TempDir(), Config{}, url)
			defer stop()
			asked, answer := make(chan struct{}), make(chan struct{})
			origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				close(asked)
				<-answer
				_, _ = io.WriteString(w, "old")
			}))
			defer origin.Close()
			var wg sync.WaitGroup
			wg.Go(func() {
				if status, body := send(t, "POST", first.URL+"/cache/k/fill", `{"url":"`+origin.URL+`","tags":["red"]}`); status != 200 || body != "old" {
					t.Errorf("the fill: %d %s", status, body)
				}
			})
			<-asked
			path := "/cache/k"
			if act.method == "POST" {
				path = "/cache/invalidate"
			}
			if status, body := send(t, act.method, second.URL+path, act.body); status >= 300 {
				t.Errorf("%s: %d %s", act.method, status, body)
			}
			close(answer)
			wg.Wait()
			for _, base := range []string{first.URL, second.URL} {
				status, body := send(t, "GET", base+"/cache/k", "")
				if act.want == "" && status != 404 || act.want != "" && body != act.want {
					t.Errorf("got %d %q, want %q", status, body, act.want)
				}
			}
		})
	}
}
