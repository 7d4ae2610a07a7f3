package loopback

import "testing"

func TestHost(t *testing.T) {
	for name, want := range map[string]bool{
		"localhost": true, "127.0.0.1": true, "127.8.9.10": true, "::1": true, "::ffff:127.0.0.1": true,
		"": false, "0.0.0.0": false, "::": false, "10.0.0.1": false, "localhost.example.com": false, "127.0.0.1.example.com": false, "[::1]": false,
	} {
		if got := Host(name); got != want {
			t.Errorf("%q: got %v, want %v", name, got, want)
		}
	}
}
