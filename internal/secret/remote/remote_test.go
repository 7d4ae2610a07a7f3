package remote

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/secret"
)

func TestCheckURL(t *testing.T) {
	for _, ok := range []string{"https://vault.example.com:8200", "http://127.0.0.1:8200", "http://localhost", "http://[::1]:1/path"} {
		if err := CheckURL("address", ok); err != nil {
			t.Errorf("%s: %v", ok, err)
		}
	}
	for bad, want := range map[string]string{
		"vault.example.com":        "with its scheme",
		"ftp://x":                  "with its scheme",
		"https://":                 "with its scheme",
		"http://vault.example.com": "plain http is for this machine alone",
		"http://127.0.0.1.evil":    "plain http is for this machine alone",
		"https://u:sesame@x":       "no user",
		"https://x?a=sesame":       "no user",
		"https://x:\x7fsesame":     "with its scheme",
	} {
		err := CheckURL("address", bad)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "sesame") {
			t.Errorf("%s: got %v, want %q", bad, err, want)
		}
	}
}

func TestField(t *testing.T) {
	fields := map[string]json.RawMessage{"text": json.RawMessage(`"a\nb"`), "doc": json.RawMessage(`{"versions":[]}`), "none": json.RawMessage(`null`)}
	for name, want := range map[string]string{"text": "a\nb", "doc": `{"versions":[]}`} {
		if got, err := Field(fields, name); err != nil || string(got) != want {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
	for _, name := range []string{"none", "other"} {
		if _, err := Field(fields, name); err == nil || !strings.Contains(err.Error(), `"doc", "none", "text"`) || strings.Contains(err.Error(), "a\\nb") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Field(nil, "x"); err == nil || !strings.Contains(err.Error(), "no field at all") {
		t.Errorf("got %v", err)
	}
}

func TestPut(t *testing.T) {
	fields := map[string]json.RawMessage{"text": json.RawMessage(`"a"`), "doc": json.RawMessage(`{"b":1}`), "number": json.RawMessage(`12345678901234567890`)}
	for name, want := range map[string]string{"text": `"{\"versions\":[]}"`, "doc": `{"versions":[]}`, "new": `{"versions":[]}`} {
		got, err := Put(fields, name, []byte(`{"versions":[]}`))
		if err != nil || string(got[name]) != want || string(got["number"]) != "12345678901234567890" {
			t.Errorf("%s: got %s, %v", name, got, err)
		}
		if content, err := Field(got, name); err != nil || string(content) != `{"versions":[]}` {
			t.Errorf("%s is read as %s, %v", name, content, err)
		}
	}
	if string(fields["text"]) != `"a"` {
		t.Error("the fields that were read have changed")
	}
}

func TestBefore(t *testing.T) {
	at := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	v := func(label, value string, retire time.Time) secret.Version {
		return secret.Version{Label: label, Value: secret.NewValue([]byte(value)), RetireAt: retire}
	}
	never := v("never", "9", time.Time{})
	never.ActiveFrom = at.Add(-time.Minute)
	begun := v("b", "1", time.Time{})
	begun.ActiveFrom = at.Add(-48 * time.Hour)
	got := Before([]secret.Version{v("b", "2", time.Time{})}, []secret.Version{
		never, v("same", "2", time.Time{}), begun, v("sooner", "0", at.Add(-time.Hour)),
	}, at.Add(-24*time.Hour), 24*time.Hour, "old")
	if len(got) != 3 || got[1].Label != "b of old" || !got[1].RetireAt.Equal(at) || !got[1].ActiveFrom.IsZero() || got[2].Label != "sooner" || !got[2].RetireAt.Equal(at.Add(-time.Hour)) {
		t.Errorf("got %v", got)
	}
}
