package jobs

import (
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/gatehouse-proxy/gatehouse/internal/secret"
)

func TestVerdict(t *testing.T) {
	const done, again, dead, later = "done", "again", "dead", "later"
	for status, want := range map[int]string{
		200: done, 201: done, 204: done, 299: done,
		301: again, 302: again, 307: again,
		400: dead, 401: dead, 403: dead, 404: dead, 405: dead, 410: dead, 413: dead, 422: dead, 451: dead, 499: dead,
		408: again, 409: again, 425: again, 429: later, 503: later,
		500: again, 502: again, 504: again, 599: again, 600: again,
	} {
		err := verdict(status, "", []byte("x"), time.Now())
		got := again
		if p, ok := errors.AsType[postponed](err); ok {
			got = later
			if p.RetryAfter() != 5*time.Second {
				t.Errorf("%d: got %s, want 5s", status, p.RetryAfter())
			}
		}
		if _, ok := errors.AsType[refused](err); ok {
			got = dead
		}
		if err == nil {
			got = done
		}
		if got != want {
			t.Errorf("%d: got %s, want %s", status, got, want)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	for s, want := range map[string]time.Duration{
		"":                               5 * time.Second,
		"120":                            2 * time.Minute,
		" 7 ":                            7 * time.Second,
		"0":                              time.Second,
		"86401":                          24 * time.Hour,
		"99999999999999999999999":        24 * time.Hour,
		"-5":                             5 * time.Second,
		"1.5":                            5 * time.Second,
		"soon":                           5 * time.Second,
		"Mon, 01 Jun 2026 12:01:30 GMT":  90 * time.Second,
		"Monday, 01-Jun-26 12:01:30 GMT": 90 * time.Second,
		"Mon, 01 Jun 2020 12:01:30 GMT":  time.Second,
		"Mon, 01 Jun 2099 12:01:30 GMT":  24 * time.Hour,
		"\x00":                           5 * time.Second,
	} {
		if got := parseRetryAfter(s, now); got != want {
			t.Errorf("%q: got %s, want %s", s, got, want)
		}
	}
}

func FuzzRetryAfter(f *testing.F) {
	for _, s := range []string{"", "1", "-1", "1e9", "Mon, 01 Jun 2026 12:01:30 GMT", "٣"} {
		f.Add(s)
	}
	now := time.Unix(1780000000, 0)
	f.Fuzz(func(t *testing.T, s string) {
		if d := parseRetryAfter(s, now); d < time.Second || d > 24*time.Hour {
			t.Errorf("%q: got %s", s, d)
		}
	})
}

func FuzzRecord(f *testing.F) {
	f.Add(500, []byte("a\x00b\r\n\x1b[31m\xff\u202e"))
	f.Add(404, []byte(strings.Repeat("é", 5000)))
	f.Add(503, []byte(": : HTTP 200"))
	f.Fuzz(func(t *testing.T, status int, text []byte) {
		if status < 400 || status > 999 {
			t.Skip()
		}
		got, message := statusOf(statusError(status, text).Error())
		if got != status || !utf8.ValidString(message) || len(message) > maxMessage+len("…") ||
			strings.ContainsFunc(message, func(r rune) bool { return unicode.IsControl(r) || !unicode.IsPrint(r) }) {
			t.Errorf("got %d %q", got, message)
		}
	})
}

func TestStatusOf(t *testing.T) {
	for record, want := range map[string]struct {
		status  int
		message string
	}{
		"HTTP 500":         {500, ""},
		"HTTP 500: a: b":   {500, "a: b"},
		"HTTP is down":     {0, "HTTP is down"},
		"HTTP 99999: no":   {0, "HTTP 99999: no"},
		"connection reset": {0, "connection reset"},
	} {
		if status, message := statusOf(record); status != want.status || message != want.message {
			t.Errorf("%q: got %d %q", record, status, message)
		}
	}
}

func TestTraceparent(t *testing.T) {
	const id, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	for s, want := range map[string]bool{
		"00-" + id + "-" + span + "-01":                      true,
		"01-" + id + "-" + span + "-00":                      true,
		"ff-" + id + "-" + span + "-01":                      false,
		"00-" + strings.Repeat("0", 32) + "-" + span + "-01": false,
		"00-" + id + "-" + strings.Repeat("0", 16) + "-01":   false,
		"00-" + strings.ToUpper(id) + "-" + span + "-01":     false,
		"00-" + id + "-" + span + "-01-extra":                false,
		"00-" + id + "-" + span + "-01\r\nX: y":              false,
		"":                                                   false,
	} {
		if got := validTraceparent(s); got != want {
			t.Errorf("%q: got %v, want %v", s, got, want)
		}
	}
}

// The vector is that of the reference libraries of Standard Webhooks.
func TestSignature(t *testing.T) {
	s, err := newSigner(secret.NewSet("k", secret.Version{Value: secret.NewValue([]byte("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n"))}), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	h := http.Header{}
	s.sign(h, "msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`))
	if got, want := h.Get("Webhook-Signature"), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, key := range []string{"", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_", "whsec_MfKQ", "whsec_!"} {
		if _, err := newSigner(secret.NewSet("k", secret.Version{Value: secret.NewValue([]byte(key))}), slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("the key %q was taken", key)
		}
	}
}

// While a key retires a push has a signature under each, and receivers need not change at the same time.
func TestSignatureWhileAKeyRetires(t *testing.T) {
	version := func(label, value string) secret.Version {
		return secret.Version{Label: label, Value: secret.NewValue([]byte(value))}
	}
	old := version("old", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	set := secret.NewSet("k", old)
	s, err := newSigner(set, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	signature := func() []string {
		h := http.Header{}
		s.sign(h, "msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`))
		return strings.Fields(h.Get("Webhook-Signature"))
	}
	before := signature()
	set.Replace([]secret.Version{version("new", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"), old})
	if got := signature(); len(got) != 2 || got[1] != before[0] || got[0] == before[0] {
		t.Errorf("got %q, before %q", got, before)
	}
	if set.Newest().LastUsed().IsZero() {
		t.Error("the use of the newest is not marked")
	}
	set.Replace([]secret.Version{version("broken", "sesame")})
	if got := signature(); len(got) != 2 {
		t.Errorf("a broken key ends the signing: %q", got)
	}
}
