package frontdoor

import (
	"bufio"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// request is the target as net/http reads it from the wire.
func request(t testing.TB, target string, headers ...string) *http.Request {
	t.Helper()
	text := target + " HTTP/1.1\r\n"
	if !strings.HasPrefix(target, "CONNECT ") {
		text = "GET " + text
	}
	for i := 0; i+1 < len(headers); i += 2 {
		text += headers[i] + ": " + headers[i+1] + "\r\n"
	}
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text + "Host: a.example\r\n\r\n")))
	if err != nil {
		t.Fatalf("%s: %v", target, err)
	}
	return r
}

var none = only{}

func TestPathsWithTwoReadings(t *testing.T) {
	for target, want := range map[string]reason{
		"/":                               "",
		"/news/x":                         "",
		"/news/":                          "",
		"/.well-known/jwks.json":          "",
		"/a/..b/c..d/e.":                  "",
		"/a/...b":                         "",
		"/caf%C3%A9/%E4%B8%AD":            "",
		"/caf%e9":                         "", // Latin-1
		"/%F0%9F%98%80":                   "",
		"/100%25":                         "",
		"/100%25.txt":                     "",
		"/a%2525b":                        "",
		"/a%20b+c,d:e@f=g&h$i!j*k'(l)~_-": "",
		"/a%3Fb%23c":                      "",
		"/C%23":                           "",
		"/a?x=/../y;z&u=//%2e":            "",
		"/news/../admin":                  dotSegment,
		"/news/..":                        dotSegment,
		"/..":                             dotSegment,
		"/.":                              dotSegment,
		"/news/./x":                       dotSegment,
		"/news/...":                       dotSegment,
		"/news/..%20/x":                   dotSegment,
		"/news/..;/admin":                 dotSegment,
		"/news/.;a=b/admin":               dotSegment,
		"/news/..%3b/admin":               dotSegment,
		"/news/%2e%2e/admin":              dotSegment,
		"/news/.%2E/admin":                dotSegment,
		"/news//x":                        emptySegment,
		"//":                              emptySegment,
		"//a.example/x":                   emptySegment,
		"/news/x//":                       emptySegment,
		"/admin;/x":                       semicolon,
		"/admin;a=b":                      semicolon,
		"/;/admin":                        semicolon,
		"/admin%3bx":                      semicolon,
		`/news\admin`:                     backslash,
		"/news/..%5cadmin":                dotSegment,
		"/news%5cadmin":                   backslash,
		"/news%5Cadmin":                   backslash,
		"/news%2fadmin":                   encodedSlash,
		"/news%2Fadmin":                   encodedSlash,
		"/admin%2ejson":                   encodedDot,
		"/%2Ewell-known":                  encodedDot,
		"/a%00":                           control,
		"/a%0a":                           control,
		"/a%09b":                          control,
		"/a%7f":                           control,
		"/a%252fb":                        doubleEncoding,
		"/a%252E%252e/b":                  doubleEncoding,
		"/a%25252fb":                      doubleEncoding,
		"/a%255cb":                        doubleEncoding,
		"/a%253b":                         doubleEncoding,
		"/a%2500":                         doubleEncoding,
		"/a%25c0%25af":                    doubleEncoding,
		"/a%c0%afb":                       badEncoding,
		"/a%c0%ae":                        badEncoding,
		"/a%e0%80%af":                     badEncoding,
		"/a%f0%80%80%af":                  badEncoding,
		"/a#b":                            fragment,
		"/a?b#c":                          fragment,
		"http://a.example/news/x":         "",
		"http://a.example":                "",
		"http://a.example/news/../x":      dotSegment,
		"http://u@a.example/":             target,
		"ftp://a.example/":                target,
		"http:/admin":                     target,
		"mailto:x":                        target,
		"*":                               target,
		"CONNECT a.example:80":            target,
	} {
		if got := judge(request(t, target), none); got != want {
			t.Errorf("%s: got %q, want %q", target, got, want)
		}
	}
}

// TestTwoProtocolsOneRule: what HTTP/2 and HTTP/3 write otherwise is held to the same.
func TestTwoProtocolsOneRule(t *testing.T) {
	on := func(major int, change func(*http.Request)) *http.Request {
		r := request(t, "/")
		r.ProtoMajor, r.ProtoMinor, r.Proto = major, 0, "HTTP/"+string(rune('0'+major))+".0"
		change(r)
		return r
	}
	connect := func(protocol string) func(*http.Request) {
		return func(r *http.Request) {
			r.Method = http.MethodConnect
			if r.ProtoMajor == 2 {
				r.Header[":protocol"] = []string{protocol}
			} else {
				r.Proto = protocol
			}
		}
	}
	for name, c := range map[string]struct {
		r    *http.Request
		want reason
	}{
		"h2-plain":         {on(2, func(*http.Request) {}), ""},
		"h2-same-host":     {on(2, func(r *http.Request) { r.Header["Host"] = []string{"A.example"} }), ""},
		"h2-two-hosts":     {on(2, func(r *http.Request) { r.Header["Host"] = []string{"b.example"} }), host},
		"h3-two-hosts":     {on(3, func(r *http.Request) { r.Header["Host"] = []string{"a.example", "a.example"} }), host},
		"h2-absolute":      {on(2, func(r *http.Request) { r.URL, _ = url.Parse("http://b.example/x") }), target},
		"h2-dots":          {on(2, func(r *http.Request) { r.URL.Path = "/a/../b" }), dotSegment},
		"h2-websocket":     {on(2, connect("websocket")), ""},
		"h3-websocket":     {on(3, connect("websocket")), ""},
		"h2-connect-udp":   {on(2, connect("connect-udp")), target},
		"h3-webtransport":  {on(3, connect("webtransport")), target},
		"h3-tunnel":        {on(3, func(r *http.Request) { r.Method = http.MethodConnect }), target},
		"h2-websocket-dot": {on(2, func(r *http.Request) { connect("websocket")(r); r.URL.Path = "/a/../b" }), dotSegment},
	} {
		if got := judge(c.r, none); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

// TestWhatIsForThisHop: nothing of it reaches the app, and it takes nothing with it that is set later.
func TestWhatIsForThisHop(t *testing.T) {
	foo := &Config{Upgrade: []string{"foo"}}
	off := &Config{Upgrade: []string{"off"}}
	for name, c := range map[string]struct {
		config  *Config
		headers []string
		want    http.Header
	}{
		"keep-alive":  {nil, []string{"Connection", "keep-alive"}, http.Header{"Connection": {"keep-alive"}}},
		"websocket":   {nil, []string{"Connection", "keep-alive, Upgrade", "Upgrade", "WebSocket"}, http.Header{"Connection": {"keep-alive, Upgrade"}, "Upgrade": {"WebSocket"}}},
		"h2c":         {nil, []string{"Connection", "Upgrade, HTTP2-Settings", "Upgrade", "h2c", "HTTP2-Settings", "AAMAAABk"}, http.Header{}},
		"h2c-unnamed": {nil, []string{"Upgrade", "h2c", "HTTP2-Settings", "AAMAAABk"}, http.Header{"Upgrade": {"h2c"}}}, // no Upgrade without Connection
		"settings":    {nil, []string{"Connection", "Upgrade, HTTP2-Settings", "Upgrade", "websocket", "HTTP2-Settings", "AAMAAABk"}, http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}}},
		"two-in-one":  {nil, []string{"Connection", "Upgrade", "Upgrade", "websocket, h2c"}, http.Header{}},
		"two-lines":   {nil, []string{"Connection", "Upgrade", "Upgrade", "websocket", "Upgrade", "h2c"}, http.Header{}},
		"configured":  {foo, []string{"Connection", "Upgrade", "Upgrade", "foo"}, http.Header{"Connection": {"Upgrade"}, "Upgrade": {"foo"}}},
		"replaced":    {foo, []string{"Connection", "Upgrade", "Upgrade", "websocket"}, http.Header{}},
		"none":        {off, []string{"Connection", "close, Upgrade", "Upgrade", "websocket"}, http.Header{"Connection": {"close"}}},
		"names-own":   {nil, []string{"Connection", "close, X-User-Id", "Connection", "authorization", "X-User-Id", "1", "Authorization", "x"}, http.Header{"Connection": {"close"}}},
		"aliases":     {nil, []string{"X~User~Id", "1", "X!User-Id", "1", "X-User-Id", "1", "X'User+Id", "1"}, http.Header{"X-User-Id": {"1"}}},
		"empty":       {nil, []string{"Connection", " , "}, http.Header{}},
	} {
		r := request(t, "/", c.headers...)
		if why := judge(r, only{c.config}); why != "" {
			t.Errorf("%s: refused: %s", name, why)
		}
		if diff := cmp.Diff(c.want, r.Header); diff != "" {
			t.Errorf("%s: headers (-want +got):\n%s", name, diff)
		}
	}
}

// TestTheHostHasOneSpelling, so that what is counted or decided by it cannot be had twice.
func TestTheHostHasOneSpelling(t *testing.T) {
	r := request(t, "http://A.Example:80/")
	if why := judge(r, none); why != "" || r.Host != "a.example:80" {
		t.Errorf("got %q and the host %q", why, r.Host)
	}
	r = request(t, "http://a.example")
	if why := judge(r, none); why != "" || r.URL.Path != "/" {
		t.Errorf("got %q and the path %q, want /", why, r.URL.Path)
	}
}

func TestTrailersThatDecide(t *testing.T) {
	text := "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\nTrailer: X-Checksum, Authorization\r\n\r\n" +
		"1\r\nx\r\n0\r\nX-Checksum: 1\r\nAuthorization: x\r\nGatehouse_Subject: x\r\nX-User-Id: x\r\n\r\n"
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text)))
	if err != nil {
		t.Fatal(err)
	}
	if why := judge(r, none); why != "" {
		t.Fatal(why)
	}
	buf := make([]byte, 16)
	for err == nil {
		_, err = r.Body.Read(buf)
	}
	if diff := cmp.Diff(http.Header{"X-Checksum": {"1"}}, r.Trailer); diff != "" {
		t.Errorf("trailers (-want +got):\n%s", diff)
	}
}

// TestWordsThatAreNone: what the proxy could not send is the client's fault, not the app's.
func TestWordsThatAreNone(t *testing.T) {
	for name, change := range map[string]func(r *http.Request){
		"method-space":    func(r *http.Request) { r.Method = "G T" },
		"method-slash":    func(r *http.Request) { r.Method = "GET/x" },
		"method-letter":   func(r *http.Request) { r.Method = "é" },
		"method-none":     func(r *http.Request) { r.Method = "" },
		"trailer-space":   func(r *http.Request) { r.Trailer = http.Header{"X Y": nil} },
		"trailer-quote":   func(r *http.Request) { r.Trailer = http.Header{`"`: nil} },
		"trailer-byte":    func(r *http.Request) { r.Trailer = http.Header{"\xff": nil} },
		"trailer-nothing": func(r *http.Request) { r.Trailer = http.Header{"": nil} },
	} {
		r := plain(t)
		change(r)
		if why := judge(r, none); why != method && why != trailer {
			t.Errorf("%s: got %q, want a refusal", name, why)
		}
	}
	r := plain(t)
	r.Method = "PURGE"
	r.Trailer = http.Header{"X-Checksum": nil}
	if why := judge(r, none); why != "" {
		t.Errorf("a method of somebody's own: got %q", why)
	}
}

func plain(t testing.TB) *http.Request {
	return request(t, "/api/v1/orders/4711?page=2", "Accept", "*/*", "User-Agent", "bench", "Authorization", "Bearer x", "Connection", "keep-alive")
}

func TestAPlainRequestCostsNoAllocation(t *testing.T) {
	r := plain(t)
	in := new(door)
	in.open()
	if n := testing.AllocsPerRun(100, func() { judge(r, in) }); n != 0 {
		t.Errorf("got %v allocations, want 0", n)
	}
}

func BenchmarkJudge(b *testing.B) {
	in := new(door)
	in.open()
	for name, r := range map[string]*http.Request{"h1": plain(b), "h2": func() *http.Request {
		r := plain(b)
		delete(r.Header, "Connection")
		r.ProtoMajor = 2
		return r
	}()} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if why := judge(r, in); why != "" {
					b.Fatal(why)
				}
			}
		})
	}
}

// FuzzPath: what passes has one reading. It is its own cleaned form, decodes to no sign that separates
// segments, and reads the same when it is decoded twice, but for harmless signs.
func FuzzPath(f *testing.F) {
	for _, seed := range []string{"/", "/a/b", "/a/../b", "/a%2fb", "/a%252fb", "/..;/x", "/a%c0%af", "/100%25", "/%2e", "/a//b", "/.%20"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := url.ParseRequestURI(raw)
		if err != nil || u.Scheme != "" || judgePath(u.Path, u.RawPath) != "" {
			return
		}
		sent := u.EscapedPath()
		for range 3 {
			for segment := range strings.SplitSeq(strings.TrimPrefix(sent, "/"), "/") {
				if segment == "." || segment == ".." || strings.ContainsAny(segment, "\\;\x00") {
					t.Fatalf("%q is read as %q", raw, sent)
				}
			}
			if strings.Contains(sent, "//") || strings.Count(sent, "/") != strings.Count(u.Path, "/") {
				t.Fatalf("%q is read as %q", raw, sent)
			}
			if sent, err = url.PathUnescape(sent); err != nil {
				return
			}
		}
	})
}
