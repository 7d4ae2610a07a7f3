package egress

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// listening registers the listeners for the time of a test.
func listening(t testing.TB, listeners ...Listener) {
	t.Helper()
	t.Cleanup(Listen(listeners))
}

// The verdicts of TestTargets.
const (
	sent    = "sent"
	refused = "refused" // in no place, or not a URL
	itself  = "own"
)

// The places are those of an operator who allowed much, in a process with an admin endpoint and sites.
func TestTargets(t *testing.T) {
	listening(t, Listener{Host: "localhost", From: 2019, Never: true},
		Listener{Host: "127.0.0.1", From: 9001}, Listener{From: 8080}, Listener{Host: "::", From: 8443}, Listener{Host: "192.0.2.7", From: 7000, To: 7010})
	places, err := ParsePlaces([]string{"127.0.0.1", "[::1]", "0.0.0.0", "[::]", "127.0.0.1:9001/public/", "127.0.0.1:2019", "localhost", "app:3000/tasks/",
		"app:3000/hook", "10.0.0.9", "192.0.2.7", "[::ffff:10.0.0.8]:80", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "Example.COM.:443", "127.9.9.9", "127.0.0.1:8080/health"})
	if err != nil {
		t.Fatal(err)
	}
	targets := map[string]string{
		// the admin endpoint, however it is written and whatever is allowed
		"http://127.0.0.1:2019/stop":              itself,
		"http://127.0.0.1:02019/stop":             itself,
		"http://localhost:2019/stop":              itself,
		"http://LOCALHOST.:2019/stop":             itself,
		"http://[::1]:2019/stop":                  itself,
		"http://[0:0:0:0:0:0:0:1]:2019/stop":      itself,
		"http://[::ffff:127.0.0.1]:2019/stop":     itself,
		"http://[::ffff:7f00:1]:2019/stop":        itself,
		"http://0.0.0.0:2019/stop":                itself,
		"http://[::]:2019/stop":                   itself,
		"http://127.9.9.9:2019/stop":              itself,
		"http://[64:ff9b::7f00:1]:2019/stop":      itself,
		"http://[64:ff9b::127.0.0.1]:2019/stop":   itself,
		"http://[2002:7f00:1::]:2019/stop":        itself,
		"https://127.0.0.1:2019/stop":             itself,
		"http://127.0.0.1:2019":                   itself,
		"http://127.0.0.1:2019/public/":           itself,
		"http://2130706433:2019/stop":             refused,
		"http://0x7f000001:2019/stop":             refused,
		"http://0x7f.1:2019/stop":                 refused,
		"http://017700000001:2019/stop":           refused,
		"http://0177.0.0.1:2019/stop":             refused,
		"http://127.1:2019/stop":                  refused,
		"http://127.0.1:2019/stop":                refused,
		"http://a.localhost:2019/stop":            refused,
		"http://localhost.localdomain:2019/":      refused,
		"http://[::127.0.0.1]:2019/stop":          refused,
		"http://[::1%25lo]:2019/stop":             refused,
		"http://①②⑦.0.0.1:2019/stop":              refused,
		"http://127.0.0.1%2f:2019/":               refused,
		"http://app:3000@127.0.0.1:2019/tasks/":   itself,
		"http://127.0.0.1:2019#@app:3000/tasks/":  itself,
		"http://127.0.0.1:2019?@app:3000/tasks/":  itself,
		"http://app:3000\\@127.0.0.1:2019/tasks/": refused,
		// our sites, where host and port are not named
		"http://127.0.0.1:9001/":              itself,
		"http://127.0.0.1:9001/private":       itself,
		"http://127.0.0.1:9001/publicity":     itself,
		"http://127.0.0.1:9001/public":        itself,
		"http://127.0.0.1:9001/public/../x":   itself,
		"http://127.0.0.1:9001/public/%2e./x": itself,
		"http://127.0.0.1:9001/public/..%2fx": itself,
		"http://127.0.0.1:9001/public/..;/x":  itself,
		"http://127.0.0.1:9001/public//x":     itself,
		"http://127.0.0.1:9001/public/%5c..":  itself,
		"http://127.0.0.1:9001/Public/x":      itself,
		"http://localhost:9001/public/x":      itself,
		"http://0.0.0.0:9001/public/x":        itself,
		"http://127.0.0.1:8080/admin":         itself,
		"http://[::1]:8080/":                  itself,
		"http://127.0.0.1:8443/":              itself,
		"http://[::1]:8443/":                  itself,
		"http://192.0.2.7:7000/":              itself,
		"http://192.0.2.7:7005/":              itself,
		"http://192.0.2.7:7010/":              itself,
		// our sites, where they are named
		"http://127.0.0.1:9001/public/":          sent,
		"http://127.0.0.1:9001/public/x?y=../z":  sent,
		"http://[::ffff:127.0.0.1]:9001/public/": sent,
		"https://127.0.0.1:9001/public/a/b":      sent,
		"http://127.0.0.1:8080/health":           sent,
		"http://127.0.0.1:8080/health/deep":      sent,
		// others
		"http://127.0.0.1:9002/":          sent,
		"http://[::1]:9001/":              sent, // nobody listens there
		"http://10.0.0.9:2019/":           sent, // another machine's
		"http://192.0.2.7:7011/":          sent,
		"http://app:3000/tasks/":          sent,
		"http://app:3000/tasks/a%20b":     sent,
		"http://app.:3000/tasks/a":        sent,
		"http://app:3000/hook":            sent,
		"http://app:3000/hook/a":          sent,
		"http://app:3000/hooks":           refused,
		"http://app:3000/tasks":           refused,
		"http://app:3000/tasks/%2e%2e/x":  refused,
		"http://app:3000/tasks/%252e%252": refused,
		"http://app:3000/tasks/..":        refused,
		"http://app:3000/tasks/.;x/..":    refused,
		"http://app:3000/":                refused,
		"http://app:3001/tasks/":          refused,
		"http://app/tasks/":               refused,
		"https://example.com/":            sent,
		"http://example.com/":             refused,
		"http://example.com.evil.test/":   refused,
		"http://10.0.0.8/":                sent,
		"http://169.254.169.254/":         refused,
		"http://[fd00:ec2::254]/":         refused,
		"http://:2019/":                   refused,
		"http:///x":                       refused,
	}
	if len(targets) < 75 {
		t.Errorf("the table has %d targets", len(targets))
	}
	for target, want := range targets {
		got := refused
		if u, err := url.Parse(target); err == nil {
			switch err = places.Check(u); {
			case err == nil:
				got = sent
			case errors.Is(err, ErrOwn):
				got = itself
			}
		}
		if got != want {
			t.Errorf("%s: got %s, want %s", target, got, want)
		}
	}
}

// A name is judged by what it stands for when it is dialled, so Control sees addresses alone.
func TestControl(t *testing.T) {
	listening(t, Listener{Host: "localhost", From: 2019, Never: true}, Listener{Host: "127.0.0.1", From: 9001}, Listener{Socket: "/run/gate.sock"}, Listener{Socket: "/run/admin.sock", Never: true})
	local := func(ip netip.Addr) bool { return ip.Unmap().IsLoopback() }
	for address, want := range map[string]struct{ plain, named, only error }{
		"127.0.0.1:2019":           {ErrOwn, ErrOwn, ErrOwn},
		"[::1]:2019":               {ErrOwn, ErrOwn, ErrOwn},
		"[::ffff:127.0.0.1]:2019":  {ErrOwn, ErrOwn, ErrOwn},
		"0.0.0.0:2019":             {ErrOwn, ErrOwn, ErrOwn},
		"[64:ff9b::7f00:1]:2019":   {ErrOwn, ErrOwn, ErrOwn},
		"[64:ff9b:1::7f00:1]:2019": {ErrOwn, ErrOwn, ErrOwn},
		"127.0.0.1:9001":           {ErrOwn, nil, ErrOwn},
		"[::ffff:127.0.0.1]:9001":  {ErrOwn, nil, ErrOwn},
		"127.0.0.2:9001":           {nil, nil, nil},
		"127.0.0.1:9003":           {nil, nil, nil},
		"10.0.0.1:2019":            {nil, nil, ErrAddress},
		"no address":               {ErrAddress, ErrAddress, ErrAddress},
	} {
		for class, want := range map[*Class]error{{}: want.plain, {Own: true}: want.named, {Allows: local}: want.only} {
			if got := class.Control()("tcp", address, nil); !errors.Is(got, want) {
				t.Errorf("%s: got %v with %+v, want %v", address, got, class, want)
			}
		}
	}
	for path, want := range map[string][2]error{"/run/gate.sock": {ErrOwn, nil}, "/run/../run/./gate.sock": {ErrOwn, nil}, "/run/admin.sock": {ErrOwn, ErrOwn}, "/run/other.sock": {nil, nil}} {
		for i, class := range []Class{{}, {Own: true}} {
			if got := class.Control()("unix", filepath.FromSlash(path), nil); !errors.Is(got, want[i]) {
				t.Errorf("%s: got %v with %+v, want %v", path, got, class, want[i])
			}
		}
	}
}

func TestReleaseEndsTheRefusal(t *testing.T) {
	u, err := url.Parse("http://127.0.0.1:2019/")
	if err != nil {
		t.Fatal(err)
	}
	old := Listen([]Listener{{From: 2019}})
	young := Listen([]Listener{{From: 2019}})
	old()
	if err := (Class{}).CheckURL(u); !errors.Is(err, ErrOwn) {
		t.Errorf("got %v while one of two configurations listens there, want %v", err, ErrOwn)
	}
	young()
	if err := (Class{}).CheckURL(u); err != nil {
		t.Errorf("got %v after the last one", err)
	}
}

// A connection that one URL may have is not used again for one that may not.
func TestTransportKeepsClassesApart(t *testing.T) {
	asked := ""
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked += r.URL.Path + " "
		if to := r.URL.Query().Get("to"); to != "" {
			http.Redirect(w, r, to, http.StatusFound)
		}
	}))
	defer srv.Close()
	site, err := ParseListener(strings.TrimPrefix(srv.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	listening(t, site)
	places, err := ParsePlaces([]string{"127.0.0.1", strings.TrimPrefix(srv.URL, "http://") + "/public/"})
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: places.NewTransport(new(http.Transport), time.Second)}
	defer client.CloseIdleConnections()
	for _, tt := range []struct {
		path string
		want error
	}{{"/public/a", nil}, {"/private", ErrOwn}, {"/public/b?to=/private", ErrOwn}, {"/public/c?to=/public/d", nil}, {"/public/e?to=http://10.0.0.1/", ErrAddress}} {
		resp, err := client.Get(srv.URL + tt.path)
		if err == nil {
			_ = resp.Body.Close()
		}
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.path, err, tt.want)
		}
	}
	if want := "/public/a /public/b /public/c /public/d /public/e "; asked != want {
		t.Errorf("the server was asked for %q, want %q", asked, want)
	}
}

// A proxy of the environment would be dialled instead of what was judged.
func TestTransportUsesNoProxy(t *testing.T) {
	base := &http.Transport{Proxy: func(*http.Request) (*url.URL, error) { return url.Parse("http://127.0.0.1:1") }}
	for _, lane := range (Places{}).NewTransport(base, time.Second).lanes {
		if lane.Proxy != nil {
			t.Error("requests may go through a proxy")
		}
	}
}

func TestParsePlace(t *testing.T) {
	for entry, want := range map[string]string{
		"app": "app", "App.Example.": "app.example", "app:080": "app:80", "127.0.0.1": "127.0.0.1", "::1": "[::1]", "[::1]": "[::1]", "[::1]:80/a": "[::1]:80/a",
		"::ffff:127.0.0.1": "127.0.0.1", "app/": "app", "app/tasks": "app/tasks", "app:1/a%20b/": "app:1/a%20b/", "bücher.example": "bücher.example",
	} {
		if p, err := ParsePlace(entry); err != nil || p.String() != want {
			t.Errorf("%q: got %q, %v, want %q", entry, p, err, want)
		}
	}
	for _, entry := range []string{"", ":80", "/path", "http://app", "app:", "app:0", "app:65536", "app:x", "u@app", "app?x", "app#x", "a b", "*.app", "app,b", "app/../x", "app/%2e%2e",
		"app//x", "127.1", "0x7f.1", "2130706433", "fe80::1%eth0", "[::1", "app\x00", "app/\\x"} {
		if p, err := ParsePlace(entry); err == nil {
			t.Errorf("%q: got %q, want an error", entry, p)
		} else if !strings.Contains(err.Error(), "HOST:PORT/path/prefix") {
			t.Errorf("%q: got %v, want what may be written", entry, err)
		}
	}
}

func FuzzPlaces(f *testing.F) {
	for _, s := range []string{"http://127.0.0.1:3000/tasks/a", "http://127.0.0.1:3000/tasks/..;/x", "http://127.0.0.1:3000/tasks/%2e%2e/x", "http://[::ffff:127.0.0.1]:3000/tasks/", "//127.0.0.1:3000/tasks/", "http://x@127.0.0.1:3000\\tasks/"} {
		f.Add(s)
	}
	places, err := ParsePlaces([]string{"127.0.0.1:3000/tasks/"})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := url.Parse(s)
		if err != nil {
			return
		}
		allowed, _ := places.Allows(u)
		if !allowed {
			return
		}
		clean := (&url.URL{Path: u.Path}).JoinPath().Path
		if ip, err := netip.ParseAddr(strings.TrimSuffix(u.Hostname(), ".")); err != nil || ip.Unmap().String() != "127.0.0.1" || !strings.HasPrefix(clean, "/tasks/") {
			t.Errorf("%q is allowed, its path is %q", s, clean)
		}
	})
}
