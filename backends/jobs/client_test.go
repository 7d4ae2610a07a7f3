package jobs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/egress"
)

// pair is a certificate of its own making, and its key, in files.
func pair(t *testing.T, dir, name string) (cert *x509.Certificate, certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
	for path, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: private}} {
		if err = os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cert, err = x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, certFile, keyFile
}

// securedTarget is a target with TLS that asks for the certificate of a client.
func securedTarget(t *testing.T, certFile, keyFile string, clients *x509.CertPool) (url string, seen <-chan *http.Request) {
	t.Helper()
	requests := make(chan *http.Request, 100)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { requests <- r }))
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	server.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients, MinVersion: tls.VersionTLS12}
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.URL, requests
}

func reached(t *testing.T, s *Service, id, state string) View {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; <-time.After(20 * time.Millisecond) {
		v, err := s.job(t.Context(), parseID(id))
		if err != nil {
			t.Fatal(err)
		}
		if v.State == state {
			return v
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %+v, want it %s", v, state)
		}
	}
}

func TestPushWithCertificates(t *testing.T) {
	dir := t.TempDir()
	_, serverCert, serverKey := pair(t, dir, "server")
	client, clientCert, clientKey := pair(t, dir, "client")
	pool := x509.NewCertPool()
	pool.AddCert(client)
	url, seen := securedTarget(t, serverCert, serverKey, pool)
	fixed := Backoff{Fixed: true, Base: 10 * time.Millisecond}
	s := still(t, Config{Queues: map[string]Queue{
		"q":     {Target: url, CA: serverCert, ClientCert: &ClientCert{clientCert, clientKey}, Attempts: 1},
		"plain": {Target: url, Attempts: 1, Backoff: fixed},
		"other": {Target: url, CA: clientCert, Attempts: 1, Backoff: fixed},
	}})
	working(t, s)
	reached(t, s, post(t, s, `{"queue":"q","payload":1}`).ID, stateCompleted)
	if r := <-seen; r.ProtoMajor != 2 || len(r.TLS.PeerCertificates) != 1 || r.TLS.PeerCertificates[0].Subject.CommonName != "client" {
		t.Errorf("got %s with %d certificates", r.Proto, len(r.TLS.PeerCertificates))
	}
	for _, queue := range []string{"plain", "other"} {
		v := reached(t, s, post(t, s, `{"queue":"`+queue+`","payload":1}`).ID, stateDead)
		if n := len(v.Errors); n == 0 || !strings.Contains(v.Errors[n-1].Message, "certificate") {
			t.Errorf("%s: got %+v, want the certificate not to be trusted", queue, v.Errors)
		}
	}
}

// TestCertificatesAreReadAgain: a new connection has what the files hold then, and a broken file does no harm.
func TestCertificatesAreReadAgain(t *testing.T) {
	dir := t.TempDir()
	_, ca, _ := pair(t, dir, "ca")
	_, cert, key := pair(t, dir, "client")
	f := Queue{CA: ca, ClientCert: &ClientCert{cert, key}}.files()
	log := still(t, Config{}).log
	name := func() string {
		t.Helper()
		leaf, err := x509.ParseCertificate(f.current(log).Certificates[0].Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		return leaf.Subject.CommonName
	}
	if first := f.current(log); first != f.current(log) || name() != "client" {
		t.Error("files that have not changed are read again")
	}
	_, other, otherKey := pair(t, dir, "renewed")
	if err := os.Rename(other, cert); err != nil {
		t.Fatal(err)
	}
	if got := name(); got != "client" {
		t.Errorf("got %s from a certificate without its key, want the one before", got)
	}
	if err := os.Rename(otherKey, key); err != nil {
		t.Fatal(err)
	}
	if got := name(); got != "renewed" {
		t.Errorf("got %s, want the renewed certificate", got)
	}
}

func TestPushToASocket(t *testing.T) {
	dir, err := os.MkdirTemp("", "jobs") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "app.sock")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(chan *http.Request, 10)
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen <- r })}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	s := still(t, Config{Queues: map[string]Queue{
		"q":     {Target: "unix/" + socket + ":/tasks?x=1", Method: http.MethodPut, Header: map[string]string{"x-app-token": "abc"}},
		"other": {},
	}})
	working(t, s)
	reached(t, s, post(t, s, `{"queue":"q","payload":1}`).ID, stateCompleted)
	r := <-seen
	if r.Method != http.MethodPut || r.RequestURI != "/tasks?x=1" || r.Host != "localhost" || r.Header.Get("X-App-Token") != "abc" {
		t.Errorf("got %s %s of %s with %v", r.Method, r.RequestURI, r.Host, r.Header)
	}
	// Our own admin endpoint is not the app, whoever names it.
	release := egress.Listen([]egress.Listener{{Socket: socket, Never: true}})
	s.sockets.CloseIdle()
	reached(t, s, post(t, s, `{"queue":"q","payload":1,"attempts":1}`).ID, stateDead)
	release()
	if len(seen) > 0 {
		t.Error("our own socket was pushed to")
	}
	// Nobody else may name it.
	u, err := parseQueueTarget("unix/" + socket)
	if err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{"unix/" + socket + ":/x", u.String() + "/x"} {
		if w := send(s, "POST", "/jobs", `{"queue":"other","payload":1,"target":"`+target+`"}`); w.Code != 422 {
			t.Errorf("%s as the target of a job: got %d %s", target, w.Code, w.Body)
		}
	}
}

func TestQueueTargets(t *testing.T) {
	for target, want := range map[string]string{
		"unix//run/app.sock:/tasks": "/tasks", "unix//run/app.sock": "", "unix//run/app.sock:": "", "unix//run/app.sock:/a?b=c": "/a",
	} {
		u, err := parseQueueTarget(target)
		if err != nil {
			t.Errorf("%s: %v", target, err)
			continue
		}
		if socket, ok := socketOf(u); !ok || socket != "/run/app.sock" || u.Path != want {
			t.Errorf("%s: got the socket %s and the path %s", target, socket, u.Path)
		}
	}
	for _, target := range []string{"unix/", "unix/run/app.sock", "unix//run/app.sock:tasks", "unix//run/app.sock:/%zz", "unix//" + strings.Repeat("a", maxTarget)} {
		if u, err := parseQueueTarget(target); err == nil {
			t.Errorf("%s: got %s, want an error", target, u)
		}
	}
}

func TestQueueOptionsAreChecked(t *testing.T) {
	dir := t.TempDir()
	_, cert, key := pair(t, dir, "client")
	broken := filepath.Join(dir, "broken.pem")
	if err := os.WriteFile(broken, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		q    Queue
		want string
	}{
		"method":          {Queue{Method: "GET"}, "POST, PUT or PATCH"},
		"header-name":     {Queue{Header: map[string]string{"a b": "1"}}, "is not a header"},
		"header-value":    {Queue{Header: map[string]string{"A": "1\r\nB: 2"}}, "is not a header"},
		"our-header":      {Queue{Header: map[string]string{"gatehouse-job-id": "1"}}, "set by the gateway"},
		"connection":      {Queue{Header: map[string]string{"Host": "a"}}, "set by the gateway"},
		"signature":       {Queue{Header: map[string]string{"Webhook-Signature": "v1,"}}, "set by the gateway"},
		"pull":            {Queue{Pull: true, CA: cert}, "a pull queue pushes nothing"},
		"half-a-pair":     {Queue{ClientCert: &ClientCert{Cert: cert}}, "two files"},
		"large-payload":   {Queue{MaxPayload: 9 << 20}, "max_payload must be at most 8.0 MiB"},
		"no-such-ca":      {Queue{CA: filepath.Join(dir, "none.pem")}, "none.pem"},
		"broken-ca":       {Queue{CA: broken}, "no certificate in PEM"},
		"key-of-another":  {Queue{ClientCert: &ClientCert{Cert: broken, Key: key}}, "client_cert"},
		"socket-relative": {Queue{Target: "unix/run/app.sock"}, "is not a socket"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Config{Queues: map[string]Queue{"q": tc.q}}.Open(t.Context(), open(t, t.TempDir()))
			if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "queue q") {
				t.Errorf("got %v, want an error of the queue q with %q", err, tc.want)
			}
		})
	}
}
