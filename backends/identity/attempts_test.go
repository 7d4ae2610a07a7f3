package identity_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/identity"
	"github.com/gatehouse-proxy/gatehouse/integration/await"
	"github.com/gatehouse-proxy/gatehouse/integration/pgtest"
)

func TestAttemptsAreLimited(t *testing.T) {
	t.Parallel()
	pgtest.Each(t, func(t *testing.T, url string) {
		c := newClock()
		three := identity.Attempts{N: 3, Per: time.Minute}
		f := startOn(t, identity.Config{Attempts: three, IPAttempts: identity.Attempts{N: 6, Per: time.Minute}}, identity.Deps{Now: c.Now}, open(t, url, t.TempDir()))
		f.mustAdd(t, "ada@example.com", "correct horse", "", "")
		// A success clears the account's failures.
		for range 2 {
			f.loginFrom(t, 401, "192.0.2.1", "ada@example.com", "wrong")
		}
		f.loginFrom(t, 200, "192.0.2.1", "ADA@example.com", "correct horse")
		for i := range 3 {
			f.loginFrom(t, 401, fmt.Sprint("192.0.2.1", i), "Ada@example.com", "wrong")
		}
		c.forward(12 * time.Second)
		begin := time.Now()
		for _, email := range []string{"ada@example.com", "ADA@EXAMPLE.com"} {
			if got := f.loginFrom(t, 429, "192.0.2.99", email, "correct horse").Header.Get("Retry-After"); got != "48" {
				t.Errorf("got Retry-After %q, want 48", got)
			}
		}
		if took := time.Since(begin); took > 15*time.Millisecond {
			t.Logf("refusing two logins took %s", took)
		}
		c.forward(48 * time.Second)
		f.loginFrom(t, 200, "192.0.2.99", "ada@example.com", "correct horse") // what Retry-After said is true

		// An address fails with many accounts; a /64 of IPv6 is one.
		for _, of := range [][2]string{{"198.51.100.1", "::ffff:198.51.100.1"}, {"2001:db8::1", "2001:db8::ffff:2"}, {"peer [2001:db8:1::1]:80", "peer [2001:db8:1::2]:8080"}} {
			for i := range 6 {
				f.loginFrom(t, 401, of[i%2], fmt.Sprintf("nobody-%s-%d@example.com", of[0], i), "wrong")
			}
			f.loginFrom(t, 429, of[1], "ada@example.com", "correct horse")
		}
		f.loginFrom(t, 200, "2001:db8:0:1::1", "ada@example.com", "correct horse")

		// A success does not clear the address's failures.
		for i := range 5 {
			f.loginFrom(t, 401, "203.0.113.1", fmt.Sprintf("nobody-%d@example.com", i), "wrong")
		}
		f.loginFrom(t, 200, "203.0.113.1", "ada@example.com", "correct horse")
		f.loginFrom(t, 401, "203.0.113.1", "nobody-6@example.com", "wrong")
		f.loginFrom(t, 429, "203.0.113.1", "ada@example.com", "correct horse")
	})
}

func TestAttemptsHoldOverInstancesAndRestarts(t *testing.T) {
	t.Parallel()
	pgtest.Each(t, func(t *testing.T, url string) {
		c, dir := newClock(), t.TempDir()
		limits := identity.Config{Attempts: identity.Attempts{N: 3, Per: time.Minute}, IPAttempts: identity.Attempts{N: 5, Per: time.Minute}}
		instance := func() fixture { return startOn(t, limits, identity.Deps{Now: c.Now}, open(t, url, dir)) }
		one, two := instance(), instance()
		user := one.mustAdd(t, "ada@example.com", "correct horse", "", "")
		n := 0
		ada := func(f fixture, want int, password string) *http.Response { // from a new address
			t.Helper()
			n++
			return f.loginFrom(t, want, fmt.Sprint("192.0.2.", n), "ada@example.com", password)
		}
		refused := func(after string, all ...fixture) {
			t.Helper()
			for i, f := range all {
				if got := ada(f, 429, "correct horse").Header.Get("Retry-After"); got != after {
					t.Errorf("instance %d: got Retry-After %q, want %s", i, got, after)
				}
			}
		}
		ada(one, 401, "wrong")
		ada(two, 401, "wrong")
		ada(one, 401, "wrong")
		c.forward(10 * time.Second)
		three := instance() // one that has started after it
		refused("50", one, two, three)
		c.forward(49 * time.Second)
		refused("1", two, three, one)
		c.forward(time.Second)
		ada(two, 200, "correct horse")

		// The first failure begins a window, whose end no later one puts off.
		ada(one, 401, "wrong")
		c.forward(59 * time.Second)
		ada(two, 401, "wrong")
		c.forward(time.Second)
		for _, f := range []fixture{three, one, two} {
			ada(f, 401, "wrong")
		}
		refused("60", one, two, three)

		// Of a success all forget the failures before it.
		c.forward(time.Minute)
		ada(one, 401, "wrong")
		ada(one, 401, "wrong")
		ada(two, 200, "correct horse")
		for range 3 {
			ada(one, 401, "wrong")
		}
		refused("60", two, one)

		// So they do of a new password.
		one.admin(t, "PATCH", "/users/"+user.ID, `{"password":"another horse"}`, 200)
		c.forward(time.Second)
		ada(two, 200, "another horse")
		ada(one, 200, "another horse")

		for i, f := range []fixture{one, two, three, one, two} {
			f.loginFrom(t, 401, "198.51.100.1", fmt.Sprintf("nobody-%d@example.com", i), "wrong")
		}
		for _, f := range []fixture{one, two, three} {
			f.loginFrom(t, 429, "198.51.100.1", "ada@example.com", "another horse")
		}
	})
}

func TestParallelGuessesAreLimited(t *testing.T) {
	t.Parallel()
	pgtest.Each(t, func(t *testing.T, url string) {
		const limit, guesses = 10, 60
		c, dir := newClock(), t.TempDir()
		limits := identity.Config{Attempts: identity.Attempts{N: limit, Per: time.Minute}}
		one := startOn(t, limits, identity.Deps{Now: c.Now}, open(t, url, dir))
		two := startOn(t, limits, identity.Deps{Now: c.Now}, open(t, url, dir))
		guess := func(f fixture, i int) *http.Response {
			return f.do(loginRequest(fmt.Sprint("192.0.2.", i), "eve@example.com", fmt.Sprint("guess ", i)))
		}
		codes := make(chan int, 2*guesses)
		for i := range guesses {
			for _, f := range []fixture{one, two} {
				go func() { codes <- guess(f, i).StatusCode }()
			}
		}
		got := map[int]int{}
		for range 2 * guesses {
			got[<-codes]++
		}
		if got[401]+got[429] != 2*guesses {
			t.Fatalf("got %v, want only 401 and 429", got)
		}
		for guess(one, guesses).StatusCode == 401 {
			got[401]++
		}
		// Each knows the failures of the other, but not what is under way there: at most the limit.
		if got[401] < limit || got[401] > 2*limit {
			t.Errorf("%d guesses were let through, want %d to %d", got[401], limit, 2*limit)
		}
		var stored int
		if err := one.db.Read.QueryRow(`SELECT max(failed) FROM identity_attempts`).Scan(&stored); err != nil || stored != got[401] {
			t.Errorf("got %d failures stored (%v), want %d", stored, err, got[401])
		}
		for i, f := range []fixture{one, two} {
			if r := guess(f, 0); r.StatusCode != 429 || r.Header.Get("Retry-After") != "60" {
				t.Errorf("instance %d: got %d, Retry-After %q, want 429 and 60", i, r.StatusCode, r.Header.Get("Retry-After"))
			}
		}
	})
}

func TestFailedLoginsAreStoredAsHashes(t *testing.T) {
	f := start(t, identity.Config{}, nil, "")
	f.loginFrom(t, 401, "2001:db8::1", "Eve@example.com", "wrong")
	for _, of := range []string{"account\x00eve@example.com", "address\x002001:db8::/64"} {
		sum := sha256.Sum256([]byte(of))
		res, err := f.db.Write.Exec(`DELETE FROM identity_attempts WHERE hash = $1`, base64.RawURLEncoding.EncodeToString(sum[:]))
		if err != nil {
			t.Fatal(err)
		}
		if n, _ := res.RowsAffected(); n != 1 {
			t.Errorf("%q: got %d rows, want 1", of, n)
		}
	}
	var n int
	if err := f.db.Read.QueryRow(`SELECT count(*) FROM identity_attempts`).Scan(&n); err != nil || n != 0 {
		t.Errorf("%d rows are left (%v), want none", n, err)
	}
}

func TestAttemptsHoldOverAnOutageOfTheDatabase(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Fast, pgtest.Alone)
	f := start(t, identity.Config{Attempts: identity.Attempts{N: 2, Per: time.Hour}}, nil, server.URL)
	f.loginFrom(t, 401, "192.0.2.1", "ada@example.com", "wrong")
	server.Kill()
	if r := f.loginFrom(t, 503, "192.0.2.1", "ada@example.com", "wrong"); r.Header.Get("Retry-After") == "" {
		t.Error("the 503 has no Retry-After")
	}
	server.Restart()
	await.For(t, "the database", func() error {
		if code := f.do(loginRequest("192.0.2.1", "ada@example.com", "wrong")).StatusCode; code != 401 {
			return fmt.Errorf("got %d", code)
		}
		return nil
	})
	f.loginFrom(t, 429, "192.0.2.1", "ada@example.com", "wrong")
}

func TestAttemptsAreRead(t *testing.T) {
	for in, want := range map[string]identity.Attempts{
		"10/15m": {N: 10, Per: 15 * time.Minute},
		"1/1s":   {N: 1, Per: time.Second},
		"5/1d":   {N: 5, Per: 24 * time.Hour},
	} {
		got, err := identity.ParseAttempts(in)
		if err != nil || got != want {
			t.Errorf("%s: got %v, %v", in, got, err)
		}
		b, _ := json.Marshal(got)
		var back identity.Attempts
		if err = json.Unmarshal(b, &back); err != nil || back != want {
			t.Errorf("%s: got %s, and from it %v, %v", in, b, back, err)
		}
	}
	for _, in := range []string{"", "10", "0/1m", "-1/1m", "x/1m", "10/", "10/soon", "10/1ms", "10/25h", "9999999/1m"} {
		if got, err := identity.ParseAttempts(in); err == nil {
			t.Errorf("%q: got %v, want an error", in, got)
		}
	}
}
