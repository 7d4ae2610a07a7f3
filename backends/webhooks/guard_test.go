package webhooks

import (
	"net/http"
	"net/netip"
	"testing"
)

func TestGuard(t *testing.T) {
	closed, err := newGuard(nil)
	if err != nil {
		t.Fatal(err)
	}
	open, err := newGuard([]string{"127.0.0.0/8", "10.1.0.0/16", "fd00::/8"})
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		address             string
		closed, open, plain bool // closed and open: over https
	}{
		{"93.184.215.14:443", true, true, false},
		{"93.184.215.14:8443", true, true, false},
		{"[2606:2800:21f:cb07:6820:80da:af6b:8b2c]:443", true, true, false},
		{"127.0.0.1:443", false, true, true},
		{"127.9.9.9:443", false, true, true},
		{"[::1]:443", false, false, false},
		{"[::ffff:127.0.0.1]:443", false, true, true},
		{"0.0.0.0:443", false, false, false},
		{"[::]:443", false, false, false},
		{"10.0.0.1:443", false, false, false},
		{"10.1.0.1:443", false, true, true},
		{"172.16.0.1:443", false, false, false},
		{"192.168.0.1:443", false, false, false},
		{"100.64.0.1:443", false, false, false},
		{"169.254.169.254:80", false, false, false},
		{"[fe80::1]:443", false, false, false},
		{"[fd00:ec2::254]:80", false, true, true},
		{"[64:ff9b::7f00:1]:443", false, false, false},
		{"[2002:7f00:1::]:443", false, false, false},
		{"224.0.0.1:443", false, false, false},
		{"[ff02::1]:443", false, false, false},
		{"255.255.255.255:443", false, false, false},
		{"240.0.0.1:443", false, false, false},
		{"198.18.0.1:443", false, false, false},
		{"not an address", false, false, false},
	}
	dials := func(g *guard, class int, address string) bool {
		return g.classes()[class].Control()("tcp", address, nil) == nil
	}
	for _, tt := range tests {
		if got := dials(closed, overTLS, tt.address); got != tt.closed {
			t.Errorf("%s: got %v by default, want %v", tt.address, got, tt.closed)
		}
		if got := dials(open, overTLS, tt.address); got != tt.open {
			t.Errorf("%s: got %v with allow_private, want %v", tt.address, got, tt.open)
		}
		if got := dials(open, overPlain, tt.address); got != tt.plain {
			t.Errorf("%s: got %v over http, want %v", tt.address, got, tt.plain)
		}
		if dials(closed, overPlain, tt.address) {
			t.Errorf("%s: allowed over http although nothing is", tt.address)
		}
	}
}

func TestCheckURL(t *testing.T) {
	closed, _ := newGuard(nil)
	open, _ := newGuard([]string{"127.0.0.0/8"})
	tests := []struct {
		url          string
		closed, open bool
	}{
		{"https://example.com/hooks?x=1", true, true},
		{"https://example.com:8443", true, true},
		{"HTTPS://EXAMPLE.COM", true, true},
		{"http://example.com/", false, true}, // what it resolves to is judged when it is dialled
		{"http://127.0.0.1:3000/", false, true},
		{"https://127.0.0.1/", false, true},
		{"https://localhost/", false, true},
		{"https://LOCALHOST./", false, true},
		{"https://a.localhost/", false, true},
		{"https://[::ffff:127.0.0.1]/", false, true},
		{"https://[::1]/", false, false},
		{"https://169.254.169.254/", false, false},
		{"http://169.254.169.254/", false, false},
		{"http://93.184.215.14/", false, false},
		{"//example.com/", false, false},
		{"javascript:alert(1)", false, false},
		{"https://", false, false},
		{"https://:443/", false, false},
		{"https://example.com:port/", false, false},
		{"https://user@example.com/", false, false},
		{"https://example.com/#", false, false},
		{"https://example.com/\n", false, false},
		{"", false, false},
	}
	for _, tt := range tests {
		if err := closed.checkURL(tt.url); (err == nil) != tt.closed {
			t.Errorf("%q: got %v by default", tt.url, err)
		}
		if err := open.checkURL(tt.url); (err == nil) != tt.open {
			t.Errorf("%q: got %v with allow_private", tt.url, err)
		}
	}
}

func FuzzCheckURL(f *testing.F) {
	f.Add("https://example.com/")
	f.Add("https://[::ffff:127.0.0.1]:1/")
	f.Add("http://0x7f.1/")
	g, _ := newGuard(nil)
	f.Fuzz(func(t *testing.T, raw string) {
		if g.checkURL(raw) != nil {
			return
		}
		r, err := http.NewRequest(http.MethodPost, raw, nil)
		if err != nil || r.URL.Scheme != "https" || r.URL.Hostname() == "" {
			t.Fatalf("%q was accepted: %v", raw, err)
		}
		if ip, err := netip.ParseAddr(r.URL.Hostname()); err == nil && (ip.Unmap().IsLoopback() || ip.Unmap().IsPrivate()) {
			t.Fatalf("%q was accepted and is private", raw)
		}
	})
}
