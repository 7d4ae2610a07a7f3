package signature

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The fixtures of the vectors: an event, its time, and a secret of plain ASCII.
const (
	eventBody = `{"id":"evt_1","type":"order.created"}`
	eventTime = 1767225600 // 2026-01-01T00:00:00Z
	plain     = "test-secret"
	roots     = `{"name":"Zoë ☃","n":1.0}` + "\n"
)

type vector struct {
	name    string
	scheme  *Scheme
	secrets []string
	id      string
	unix    int64
	body    string
	header  map[string]string
}

var vectors = []vector{
	{
		name: "timestamped", scheme: Timestamped, secrets: []string{plain}, unix: eventTime, body: eventBody,
		header: map[string]string{
			"X-Webhook-Timestamp": "1767225600000",
			"X-Webhook-Signature": "sha256=4faaafba91f9c23596dbcc1b214e99d66b7741049c04ecf98a20a9af15f6c3dc",
		},
	},
	{
		name: "timestamped-raw-bytes", scheme: Timestamped, secrets: []string{plain}, unix: eventTime, body: roots,
		header: map[string]string{
			"X-Webhook-Timestamp": "1767225600000",
			"X-Webhook-Signature": "sha256=178efbb1196e2d18eff8d2409d4adf8c0b068ddd355c2fe571d2fe36f94fe02b",
		},
	},
	{
		name: "standard-published", scheme: Standard, secrets: []string{"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"},
		id: "msg_p5jXN8AQM9LWM0D4loKWxJek", unix: 1614265330, body: `{"test": 2432232314}`,
		header: map[string]string{
			"Webhook-Id": "msg_p5jXN8AQM9LWM0D4loKWxJek", "Webhook-Timestamp": "1614265330",
			"Webhook-Signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
		},
	},
	{
		name: "standard-two-secrets", scheme: Standard, id: "msg_1", unix: eventTime, body: eventBody,
		secrets: []string{"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"},
		header: map[string]string{
			"Webhook-Id": "msg_1", "Webhook-Timestamp": "1767225600",
			"Webhook-Signature": "v1,9xmhYGIzwmqKqn8tifqPpCvQROQtYUQt1kURuCr7pEQ= v1,0OdEIBBBPTnsXZXSh3Amrfa5zvqVMQVRm5Ut5LhoB0I=",
		},
	},
	{
		name: "standard-asymmetric-published", scheme: Standard,
		secrets: []string{"whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="},
		id:      "msg_p5jXN8AQM9LWM0D4loKWxJek", unix: 1614265330, body: `{"test": 2432232314}`,
		header: map[string]string{
			"Webhook-Id": "msg_p5jXN8AQM9LWM0D4loKWxJek", "Webhook-Timestamp": "1614265330",
			"Webhook-Signature": "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==",
		},
	},
	{
		name: "standard-asymmetric-seed", scheme: Standard, secrets: []string{"whsk_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="},
		id: "msg_1", unix: eventTime, body: eventBody,
		header: map[string]string{
			"Webhook-Id": "msg_1", "Webhook-Timestamp": "1767225600",
			"Webhook-Signature": "v1a,MOwio+NUHOpBCV54cCpAF1DUqH8tPwGT4g/CR4OU/QgvqalgMo9oQuq43uQdX9HajB2iGeco45DI2jmdxMxKDw==",
		},
	},
	{
		name: "stripe-node", scheme: Stripe, secrets: []string{"whsec_test_secret"}, unix: 1614265330,
		body:   "{\n  \"id\": \"evt_test_webhook\",\n  \"object\": \"event\"\n}",
		header: map[string]string{"Stripe-Signature": "t=1614265330,v1=af4ead0627a34a8cca29808e8de9ada8e41a92e6237c63cef6eacf51d36cca34"},
	},
	{
		name: "stripe", scheme: Stripe, secrets: []string{"whsec_test_secret"}, unix: eventTime, body: eventBody,
		header: map[string]string{"Stripe-Signature": "t=1767225600,v1=d63825768d736fe2a38b71011c4472f674cffba53564c150912e1d5dee4a3c71"},
	},
	{
		name: "github-published", scheme: GitHub, secrets: []string{"It's a Secret to Everybody"}, body: "Hello, World!",
		header: map[string]string{"X-Hub-Signature-256": "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"},
	},
	{
		name: "github", scheme: GitHub, secrets: []string{plain}, body: eventBody,
		header: map[string]string{"X-Hub-Signature-256": "sha256=b7140bda7682256848096f8f6f2c730372cd9ffae788d73f7433c5d9d0429ba6"},
	},
}

func parseKeys(t testing.TB, s *Scheme, secrets ...string) []Key {
	t.Helper()
	keys := make([]Key, len(secrets))
	for i, text := range secrets {
		var err error
		if keys[i], err = s.ParseKey([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	return keys
}

func headerOf(m map[string]string) http.Header {
	h := http.Header{}
	for name, value := range m {
		h.Set(name, value)
	}
	return h
}

func TestVectorsVerify(t *testing.T) {
	for _, v := range vectors {
		t.Run(v.name, func(t *testing.T) {
			for i, key := range parseKeys(t, v.scheme, v.secrets...) {
				got, err := v.scheme.Verify(time.Unix(v.unix, 0), headerOf(v.header), []byte(v.body), DefaultTolerance, key)
				if err != nil {
					t.Fatalf("secret %d: %v", i, err)
				}
				if got.ID != v.id {
					t.Errorf("got id %q, want %q", got.ID, v.id)
				}
				if v.scheme.Timed && got.At.Unix() != v.unix {
					t.Errorf("got time %v, want %d", got.At, v.unix)
				}
			}
		})
	}
}

func TestVectorsSign(t *testing.T) {
	for _, v := range vectors {
		t.Run(v.name, func(t *testing.T) {
			got := http.Header{}
			v.scheme.Sign(got, v.id, time.Unix(v.unix, 0), []byte(v.body), parseKeys(t, v.scheme, v.secrets...)...)
			if diff := cmp.Diff(headerOf(v.header), got); diff != "" {
				t.Errorf("headers differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestVectorsVerifyWithPublicKey(t *testing.T) {
	tests := map[string]string{
		"standard-asymmetric-published": "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=",
		"standard-asymmetric-seed":      "whpk_A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg=",
	}
	for _, v := range vectors {
		public, ok := tests[v.name]
		if !ok {
			continue
		}
		keys := parseKeys(t, Standard, public)
		if _, err := Standard.Verify(time.Unix(v.unix, 0), headerOf(v.header), []byte(v.body), DefaultTolerance, keys...); err != nil {
			t.Errorf("%s: %v", v.name, err)
		}
	}
}

// TestOneChangedByteIsForged changes every byte of every vector's body and signature.
func TestOneChangedByteIsForged(t *testing.T) {
	for _, v := range vectors {
		t.Run(v.name, func(t *testing.T) {
			keys := parseKeys(t, v.scheme, v.secrets...)
			now := time.Unix(v.unix, 0)
			for i := range len(v.body) {
				forged := []byte(v.body)
				forged[i] ^= 1
				if _, err := v.scheme.Verify(now, headerOf(v.header), forged, DefaultTolerance, keys...); err == nil {
					t.Fatalf("body byte %d changed and still accepted", i)
				}
			}
			if _, err := v.scheme.Verify(now, headerOf(v.header), []byte(v.body+"\n"), DefaultTolerance, keys...); err == nil {
				t.Fatal("a newline was added to the body and it is still accepted")
			}
		})
	}
}

func TestSvixNames(t *testing.T) {
	v := vectors[2]
	h := http.Header{}
	for name, value := range v.header {
		h.Set(strings.Replace(name, "Webhook-", "Svix-", 1), value)
	}
	got, err := Standard.Verify(time.Unix(v.unix, 0), h, []byte(v.body), DefaultTolerance, parseKeys(t, Standard, v.secrets...)...)
	if err != nil || got.ID != v.id {
		t.Fatalf("got %+v, %v, want id %s", got, err, v.id)
	}
}
