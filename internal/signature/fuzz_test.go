package signature

import (
	"errors"
	"net/http"
	"testing"
)

// fuzzVerify: whatever the headers hold, Verify answers with one of its kinds and never takes an unsigned body for genuine.
func fuzzVerify(t *testing.T, s *Scheme, h http.Header, key Key) {
	_, err := s.Verify(now, h, []byte(eventBody), DefaultTolerance, key)
	if err == nil {
		for name := range h {
			if h.Get(name) == "" {
				t.Fatalf("accepted without %s: %v", name, h)
			}
		}
		if _, err := s.Verify(now, h, []byte(eventBody+" "), DefaultTolerance, key); err == nil {
			t.Fatalf("accepted for two bodies: %v", h)
		}
		return
	}
	if e, ok := errors.AsType[*Error](err); !ok || e.Sentence == "" {
		t.Fatalf("got %v, want an *Error with a sentence", err)
	}
}

func FuzzTimestamped(f *testing.F) {
	f.Add("1767225600000", "sha256=4faaafba91f9c23596dbcc1b214e99d66b7741049c04ecf98a20a9af15f6c3dc")
	f.Add("1767225600", "sha256=,sha256=zz,, sha1=00")
	f.Add("", "")
	f.Add("99999999999999999999", "\xff")
	key := parseKeys(f, Timestamped, plain)[0]
	f.Fuzz(func(t *testing.T, timestamp, signature string) {
		h := http.Header{"X-Webhook-Timestamp": {timestamp}, "X-Webhook-Signature": {signature}}
		fuzzVerify(t, Timestamped, h, key)
	})
}

func FuzzGitHub(f *testing.F) {
	f.Add("sha256=b7140bda7682256848096f8f6f2c730372cd9ffae788d73f7433c5d9d0429ba6")
	f.Add("sha256=")
	f.Add("sha1=776bec0986ee4d86d8de26f0869cd4b9db67ae5e")
	key := parseKeys(f, GitHub, plain)[0]
	f.Fuzz(func(t *testing.T, signature string) {
		fuzzVerify(t, GitHub, http.Header{"X-Hub-Signature-256": {signature}}, key)
	})
}

func FuzzStripe(f *testing.F) {
	f.Add("t=1767225600,v1=d63825768d736fe2a38b71011c4472f674cffba53564c150912e1d5dee4a3c71")
	f.Add("t=1767225600,v1=zz,v0=,=,v1")
	f.Add("t==,t=,v1=00")
	key := parseKeys(f, Stripe, "whsec_test_secret")[0]
	f.Fuzz(func(t *testing.T, signature string) {
		fuzzVerify(t, Stripe, http.Header{"Stripe-Signature": {signature}}, key)
	})
}

func FuzzStandard(f *testing.F) {
	f.Add("msg_1", "1767225600", "v1,9xmhYGIzwmqKqn8tifqPpCvQROQtYUQt1kURuCr7pEQ= v1,AAAA")
	f.Add("a.b", "1", "v1a,AAAA v2,x v1")
	f.Add("", "-1", " , ")
	key := parseKeys(f, Standard, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")[0]
	f.Fuzz(func(t *testing.T, id, timestamp, signature string) {
		h := http.Header{"Webhook-Id": {id}, "Webhook-Timestamp": {timestamp}, "Webhook-Signature": {signature}}
		fuzzVerify(t, Standard, h, key)
	})
}

func FuzzStandardKey(f *testing.F) {
	f.Add([]byte("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"))
	f.Add([]byte("whpk_AAAA"))
	f.Add([]byte("whsk_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="))
	f.Fuzz(func(t *testing.T, secret []byte) {
		k, err := Standard.ParseKey(secret)
		if err == nil && k.mac == nil && k.public == nil {
			t.Fatalf("a secret without a key: %q", secret)
		}
	})
}
