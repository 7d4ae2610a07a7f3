package integration

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const headed = `{
	admin %[1]s
	auto_https off
	persist_config off
	servers {
		protocols h1 h2 h2c
	}
	gatehouse {
		data_dir %[2]s/data
		profile  off
		secret   hmac file %[2]s/hmac
	}
}
http://127.0.0.1:%[3]s {
	jwt_auth {
		secret       hmac
		claim_header sub  X-User-Id
		claim_header role X-Role
		optional
	}
	reverse_proxy %[4]s
}
`

// seen is what an app got of one request, names as they came.
type seen struct{ header, trailer http.Header }

// identities are the values by which an app of the CGI kind, which reads upper-case names with
// underscores only, would take a request for somebody's.
func (s seen) identities() (all []string) {
	cgi := strings.NewReplacer("-", "_", ".", "_")
	for _, h := range []http.Header{s.header, s.trailer} {
		for name, values := range h {
			if n := strings.ToUpper(cgi.Replace(name)); n == "X_USER_ID" || n == "X_ROLE" {
				all = append(all, values...)
			}
		}
	}
	return all
}

// serveHeaded starts an app that remembers what it gets, and a gateway before it.
func serveHeaded(t *testing.T, hmac string) (base string, got chan seen) {
	t.Helper()
	got = make(chan seen, 1)
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // the trailers come after it
		select {
		case got <- seen{r.Header.Clone(), r.Trailer.Clone()}:
		case <-t.Context().Done():
		}
		_, _ = io.WriteString(w, "ok")
	}))
	t.Cleanup(app.Close)
	e := &example{dir: t.TempDir(), admin: "127.0.0.1:" + freePort(t)}
	port := freePort(t)
	config := fmt.Sprintf(headed, e.admin, e.dir, port, app.Listener.Addr())
	for name, content := range map[string]string{"hmac": hmac, "Caddyfile": config} {
		if err := os.WriteFile(filepath.Join(e.dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p := start(t, e.dir, "gatehouse", "run", "--config", "Caddyfile", "--adapter", "caddyfile")
	p.waitFor("http://" + e.admin + "/startupz")
	return "127.0.0.1:" + port, got
}

// spoken writes a request as it is, and returns the status of the answer.
func spoken(t *testing.T, addr, request string) int {
	t.Helper()
	c, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err = io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

// TestIdentityHeadersAreOurs sends identity headers in every disguise. None reaches the app: with a
// token it gets what the token says, without one it gets nothing.
func TestIdentityHeadersAreOurs(t *testing.T) {
	hmac := strings.Repeat("k", 32)
	addr, got := serveHeaded(t, hmac)
	token := signed(t, `{"alg":"HS256"}`, `{"sub":"user-1","exp":`+fmt.Sprint(time.Now().Unix()+600)+`}`, []byte(hmac))
	chunked := func(before, trailers string) string {
		return "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + before + "%sTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n" + trailers + "\r\n"
	}
	plain := func(lines string) string {
		return "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n" + lines + "%s\r\n"
	}
	for name, request := range map[string]string{
		"as-it-is":                plain("X-User-Id: admin\r\n"),
		"lower-case":              plain("x-user-id: admin\r\n"),
		"upper-case":              plain("X-USER-ID: admin\r\n"),
		"mixed-case":              plain("x-UsEr-iD: admin\r\n"),
		"underscores":             plain("X_User_Id: admin\r\n"),
		"underscores-upper-case":  plain("X_USER_ID: admin\r\n"),
		"one-underscore":          plain("X-User_Id: admin\r\n"),
		"dots":                    plain("X.User.Id: admin\r\n"),
		"repeated":                plain("X-User-Id: admin\r\nx-user-id: root\r\nX_User-Id: nobody\r\nX-User-Id: \r\n"),
		"another-that-is-not-set": plain("X-Role: admin\r\nx_role: admin\r\n"),
		"named-by-connection":     "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close, X-User-Id, x-role\r\nX-User-Id: admin\r\n%s\r\n",
		"trailer":                 chunked("Trailer: X-User-Id\r\n", "X-User-Id: admin\r\n"),
		"trailer-lower-case":      chunked("Trailer: x-user-id\r\n", "x-user-id: admin\r\n"),
		"trailer-underscores":     chunked("Trailer: X_User_Id\r\n", "X_User_Id: admin\r\n"),
		"trailer-not-announced":   chunked("", "X-User-Id: admin\r\n"),
		"trailer-repeated":        chunked("Trailer: X-User-Id, X-Role\r\n", "X-User-Id: admin\r\nX-User-Id: root\r\nX-Role: admin\r\n"),
		"trailer-and-header":      chunked("Trailer: X-User-Id\r\nX-User-Id: admin\r\n", "X-User-Id: admin\r\n"),
	} {
		for _, with := range []struct{ name, line string }{{"", ""}, {"-with-a-token", "Authorization: Bearer " + token + "\r\n"}} {
			t.Run(name+with.name, func(t *testing.T) {
				if status := spoken(t, addr, fmt.Sprintf(request, with.line)); status != http.StatusOK {
					t.Fatalf("got %d", status)
				}
				arrived(t, got, with.line != "")
			})
		}
	}
	for name, request := range map[string]string{ // which are no headers at all
		"blank-before-the-colon": plain("X-User-Id : admin\r\n"),
		"blank-before-the-name":  "GET / HTTP/1.1\r\n X-User-Id: admin\r\nHost: 127.0.0.1\r\nConnection: close\r\n%s\r\n",
		"null-in-the-name":       plain("X-User-Id\x00: admin\r\n"),
	} {
		t.Run(name, func(t *testing.T) {
			if status := spoken(t, addr, fmt.Sprintf(request, "")); status != http.StatusBadRequest {
				t.Errorf("got %d, want 400", status)
			}
			select {
			case s := <-got:
				t.Errorf("the app got %v", s)
			default:
			}
		})
	}
	t.Run("http-2", func(t *testing.T) { overHTTP2(t, addr, token, got) })
}

// arrived holds what the app got to what the token says.
func arrived(t *testing.T, got chan seen, authenticated bool) (s seen) {
	t.Helper()
	select {
	case s = <-got:
	case <-time.After(10 * time.Second):
		t.Fatal("the request has not reached the app")
	}
	var want []string
	if authenticated {
		want = []string{"user-1"}
	}
	if ids := s.identities(); !slices.Equal(ids, want) {
		t.Errorf("the app reads %v, want %v, of %v and the trailers %v", ids, want, s.header, s.trailer)
	}
	return s
}

// overHTTP2 does the same with the frames of HTTP/2, in which all names are lower-case.
func overHTTP2(t *testing.T, addr, token string, got chan seen) {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	c := &http.Client{Transport: &http.Transport{Protocols: &protocols}, Timeout: 10 * time.Second}
	defer c.CloseIdleConnections()
	for _, name := range []string{"X-User-Id", "X_User_Id", "X-Role", "x_role"} {
		for _, authenticated := range []bool{false, true} {
			body, write := io.Pipe()
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+addr, body)
			if err != nil {
				t.Fatal(err)
			}
			r.Header[name] = []string{"admin", "root"}
			r.Trailer = http.Header{name: nil, "X-Sum": nil}
			if authenticated {
				r.Header.Set("Authorization", "Bearer "+token)
			}
			go func() {
				_, _ = io.WriteString(write, "abc")
				r.Trailer[name] = []string{"admin"}
				r.Trailer["X-Sum"] = []string{"1"}
				_ = write.Close()
			}()
			resp, err := c.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusOK || resp.ProtoMajor != 2 {
				t.Fatalf("got %s %s", resp.Proto, resp.Status)
			}
			s := arrived(t, got, authenticated)
			if s.trailer.Get("X-Sum") != "1" {
				t.Errorf("the app got the trailers %v without X-Sum, so nothing is shown of the others", s.trailer)
			}
		}
	}
}
