package integration

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// nodeApp answers as an app with admin pages does whose router takes the path as Node gives it, as
// Express does, or as URL reads it.
const nodeApp = `
const [port, style] = process.argv.slice(2)
require('http').createServer((req, res) => {
  let path = req.url.split('?')[0]
  if (style === 'url') path = new URL(req.url, 'http://app').pathname
  res.end(/^\/admin(\/|$)/i.test(path) ? 'ADMIN' : 'other')
}).listen(+port, '127.0.0.1')
`

const flaskApp = `
import sys
from flask import Flask
app = Flask(__name__)
@app.route('/admin')
@app.route('/admin/')
@app.route('/admin/<path:rest>')
def admin(rest=''): return 'ADMIN'
@app.route('/')
@app.route('/<path:rest>')
def other(rest=''): return 'other'
app.run('127.0.0.1', int(sys.argv[1]))
`

// springLike reads the path as servlet containers do: without what follows a semicolon in each segment,
// decoded, without empty segments, and resolved.
func springLike(w http.ResponseWriter, r *http.Request) {
	raw, _, _ := strings.Cut(r.RequestURI, "?")
	segments := strings.Split(raw, "/")
	for i, s := range segments {
		s, _, _ = strings.Cut(s, ";")
		if decoded, err := url.PathUnescape(s); err == nil {
			s = decoded
		}
		segments[i] = strings.ReplaceAll(s, `\`, "/")
	}
	answerAs(w, path.Clean("/"+strings.Join(segments, "/")))
}

// goLike is a handler that compares the decoded path, as it is and cleaned.
func goLike(w http.ResponseWriter, r *http.Request) {
	if answersAdmin(r.URL.Path) {
		answerAs(w, r.URL.Path)
		return
	}
	answerAs(w, path.Clean(r.URL.Path))
}

func answersAdmin(p string) bool { return p == "/admin" || strings.HasPrefix(p, "/admin/") }

func answerAs(w io.Writer, p string) {
	if answersAdmin(p) {
		_, _ = io.WriteString(w, "ADMIN")
	} else {
		_, _ = io.WriteString(w, "other")
	}
}

// spellings are paths that lead to /admin, or away from it, for some app.
var spellings = []string{
	"/admin", "/admin/", "/admin/x", "/ADMIN/x", "/Admin", "/%61dmin/x", "/adm%69n",
	"/admin/../news/y", "/admin/x/../../news/y", "/admin/./x", "/./admin/x", "/../admin/x", "/../../admin",
	"/news/../admin/x", "/news/../admin", "/news/x/../../admin/x", "/news/./../admin/x", "/news/..;/admin/x", "/news/..;a=b/admin/x", "/news/.;/../admin/x",
	"/news/%2e%2e/admin/x", "/news/.%2e/admin/x", "/news/%2E./admin/x", "/news/%2e%2e%2fadmin/x", "/news/..%2fadmin/x", "/news/..%2Fadmin", "/news%2f..%2fadmin/x",
	"/admin%2fx", "/admin%2F..%2fnews/y", "/admin/users/..%2f..%2f..%2fnews%2fx", "/%2fadmin/x", "/%2e/admin/x", "/%2e%2e/admin/x",
	`/news\..\admin\x`, `/news/..\admin\x`, `/\admin\x`, `/admin\x`, "/news/..%5cadmin%5cx", "/news%5c..%5cadmin%5cx", "/admin%5Cx", "/%5cadmin",
	"//admin/x", "///admin/x", "/news//../admin/x", "/news/..//admin/x", "//news/../admin/x", "/admin//x", "/news//admin/x",
	"/admin;/x", "/admin;a=b/x", "/;/admin/x", "/;a=b/admin", "/admin;x", "/admin%3b/x", "/news;/../admin/x",
	"/news/..%00/admin/x", "/admin%00", "/admin%0a/x", "/news/%09../admin/x", "/news/..%20/admin/x",
	"/news/%252e%252e/admin/x", "/news/..%252fadmin/x", "/news%255c..%255cadmin", "/admin%252fx",
	"/news/%c0%ae%c0%ae/admin/x", "/news/..%c0%afadmin/x", "/news/%e0%80%ae%e0%80%ae/admin/x",
	"/admin#/x", "/news/..#/admin/x", "/admin?x=/news/y", "/news/..?/admin/x",
	"http://127.0.0.1/admin/x", "http://127.0.0.1/news/../admin/x", "http://127.0.0.1//admin/x", "http:/admin/x", "http:admin/x",
	"news/../admin/x", "*", "admin/x",
}

// wire is one way of asking for a target: the status and the body of the answer.
type wire func(t *testing.T, port, target, token string) (int, string)

// asHTTP1 writes the target as it is.
func asHTTP1(t *testing.T, port, target, token string) (int, string) {
	t.Helper()
	request := "GET " + target + " HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
	if token != "" {
		request += "Authorization: Bearer " + token + "\r\n"
	}
	status, body, _ := exchange(t, "127.0.0.1:"+port, request+"\r\n")
	return status, body
}

// exchange writes a request as it is and reads one answer; 0 for none. left is what can be read behind it.
func exchange(t *testing.T, addr, request string) (status int, body string, c *bufio.Reader) {
	t.Helper()
	conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err = io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	c = bufio.NewReader(conn)
	resp, err := http.ReadResponse(c, nil)
	if err != nil {
		return 0, err.Error(), c
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return resp.StatusCode, "", c
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b), c
}

// asHTTP2 has the target as :path.
func asHTTP2(t *testing.T, port, target, token string) (int, string) {
	t.Helper()
	if !strings.HasPrefix(target, "/") || strings.HasPrefix(target, "//") {
		return 0, "" // Go's client does not write these
	}
	client := &http.Transport{Protocols: new(http.Protocols)}
	client.Protocols.SetUnencryptedHTTP2(true)
	defer client.CloseIdleConnections()
	r := &http.Request{Method: http.MethodGet, URL: &url.URL{Scheme: "http", Host: "127.0.0.1:" + port, Opaque: target}, Header: http.Header{}}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := client.RoundTrip(r.WithContext(t.Context()))
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// guardedSites are the two ways to stand open beside guarded, %s for the app.
var guardedSites = map[string]string{
	"open-news":     "handle /news/* {\n\t\treverse_proxy %[1]s\n\t}\n\thandle {\n\t\tjwt_auth {\n\t\t\tsecret hmac\n\t\t}\n\t\treverse_proxy %[1]s\n\t}",
	"guarded-admin": "@admin path /admin /admin/*\n\thandle @admin {\n\t\tjwt_auth {\n\t\t\tsecret hmac\n\t\t}\n\t\treverse_proxy %[1]s\n\t}\n\thandle {\n\t\treverse_proxy %[1]s\n\t}",
}

const guardedHead = "{\n\tadmin %s\n\tauto_https off\n\tpersist_config off\n\tservers {\n\t\tprotocols h1 h2 h2c\n\t}\n\tgatehouse {\n\t\tdata_dir %s/data\n\t\tprofile off\n\t\tsecret hmac file %[2]s/hmac\n\t}\n}\n"

// TestNoSpellingReachesAGuardedPage asks for every spelling without a token, over both protocols, of apps
// that read paths each in their own way, with an open route beside the guarded one. No answer is one of
// the guarded pages.
func TestNoSpellingReachesAGuardedPage(t *testing.T) {
	hmac := strings.Repeat("k", 32)
	dir := t.TempDir()
	apps := map[string]string{}
	for style, script := range map[string]string{"express": nodeApp, "url": nodeApp, "flask": flaskApp} {
		port := freePort(t)
		apps[style] = "127.0.0.1:" + port
		file, run := filepath.Join(dir, style), "node"
		if style == "flask" {
			run = "/usr/bin/python3" // Debian's, which has the package
		}
		if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
			t.Fatal(err)
		}
		startFile(t, dir, run, file, port, style).waitFor("http://" + apps[style] + "/")
	}
	for style, handler := range map[string]http.HandlerFunc{"spring": springLike, "go": goLike} {
		app := httptest.NewServer(handler)
		t.Cleanup(app.Close)
		apps[style] = app.Listener.Addr().String()
	}
	admin := "127.0.0.1:" + freePort(t)
	config := fmt.Sprintf(guardedHead, admin, dir)
	type site struct{ name, port string }
	var sites []site
	for style, app := range apps {
		for name, routes := range guardedSites {
			s := site{style + "/" + name, freePort(t)}
			sites = append(sites, s)
			config += "http://127.0.0.1:" + s.port + " {\n\t" + fmt.Sprintf(routes, app) + "\n}\n"
		}
	}
	for name, content := range map[string]string{"hmac": hmac, "Caddyfile": config} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	start(t, dir, "gatehouse", "run", "--config", "Caddyfile", "--adapter", "caddyfile").waitFor("http://" + admin + "/startupz")
	token := signed(t, `{"alg":"HS256"}`, `{"sub":"user-1","exp":`+fmt.Sprint(time.Now().Unix()+600)+`}`, []byte(hmac))
	for _, s := range sites {
		for protocol, ask := range map[string]wire{"http1": asHTTP1, "http2": asHTTP2} {
			t.Run(s.name+"/"+protocol, func(t *testing.T) {
				for _, target := range spellings {
					if status, body := ask(t, s.port, target, ""); strings.Contains(body, "ADMIN") {
						t.Errorf("%s without a token: got %d, a guarded page", target, status)
					}
				}
				if status, body := ask(t, s.port, "/admin/x", token); status != http.StatusOK || body != "ADMIN" {
					t.Errorf("with a token: got %d %q, want the guarded page", status, body)
				}
				if status, body := ask(t, s.port, "/news/x%20y?z=/../admin", ""); status != http.StatusOK || body != "other" {
					t.Errorf("open: got %d %q, want the open page", status, body)
				}
			})
		}
	}
}
