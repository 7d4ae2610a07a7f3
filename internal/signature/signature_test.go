package signature

import (
	"encoding/hex"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

var now = time.Unix(eventTime, 0)

func TestTolerance(t *testing.T) {
	tests := []struct {
		name string
		now  time.Time
		want error
	}{
		{"same", now, nil},
		{"age-at-limit", now.Add(5 * time.Minute), nil},
		{"age-at-limit-and-a-fraction", now.Add(5*time.Minute + 900*time.Millisecond), nil},
		{"too-old", now.Add(5*time.Minute + time.Second), ErrTimestamp},
		{"future-at-limit", now.Add(-5 * time.Minute), nil},
		{"too-far-in-the-future", now.Add(-5*time.Minute - time.Second), ErrTimestamp},
		{"year-one", time.Time{}, ErrTimestamp},
	}
	for _, scheme := range []*Scheme{Stripe, Standard} {
		keys := parseKeys(t, scheme, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
		h := http.Header{}
		scheme.Sign(h, "msg_1", now, []byte(eventBody), keys...)
		for _, tt := range tests {
			t.Run(scheme.Name+"-"+tt.name, func(t *testing.T) {
				if _, err := scheme.Verify(tt.now, h, []byte(eventBody), DefaultTolerance, keys...); !errors.Is(err, tt.want) {
					t.Errorf("got %v, want %v", err, tt.want)
				}
			})
		}
	}
	t.Run("timestamped-counts-milliseconds", func(t *testing.T) {
		keys := parseKeys(t, Timestamped, plain)
		h := http.Header{}
		Timestamped.Sign(h, "", now, []byte(eventBody), keys...)
		if _, err := Timestamped.Verify(now.Add(5*time.Minute), h, []byte(eventBody), DefaultTolerance, keys...); err != nil {
			t.Error(err)
		}
		if _, err := Timestamped.Verify(now.Add(5*time.Minute+time.Millisecond), h, []byte(eventBody), DefaultTolerance, keys...); !errors.Is(err, ErrTimestamp) {
			t.Errorf("got %v, want %v", err, ErrTimestamp)
		}
	})
	t.Run("github-has-no-time", func(t *testing.T) {
		keys := parseKeys(t, GitHub, plain)
		h := http.Header{}
		GitHub.Sign(h, "", now, []byte(eventBody), keys...)
		if _, err := GitHub.Verify(now.Add(240*time.Hour), h, []byte(eventBody), DefaultTolerance, keys...); err != nil {
			t.Error(err)
		}
	})
}

func TestRotation(t *testing.T) {
	for _, scheme := range Schemes {
		t.Run(scheme.Name, func(t *testing.T) {
			retired := parseKeys(t, scheme, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")[0]
			current := parseKeys(t, scheme, "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")[0]
			other := parseKeys(t, scheme, "whsec_AAAAsBQIhrscChlQIMV+b5sSYspob7oD")[0]
			both := http.Header{}
			scheme.Sign(both, "msg_1", now, []byte(eventBody), retired, current)
			for name, keys := range map[string][]Key{
				"old-alone": {retired}, "new-alone": {current}, "new-first": {current, retired}, "other-first": {other, current},
			} {
				if _, err := scheme.Verify(now, both, []byte(eventBody), DefaultTolerance, keys...); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			for name, keys := range map[string][]Key{"other-alone": {other}, "no-key": nil, "zero-key": {{}}} {
				if _, err := scheme.Verify(now, both, []byte(eventBody), DefaultTolerance, keys...); !errors.Is(err, ErrMismatch) {
					t.Errorf("%s: got %v, want %v", name, err, ErrMismatch)
				}
			}
		})
	}
}

func TestMalformedHeaders(t *testing.T) {
	const (
		good     = "4faaafba91f9c23596dbcc1b214e99d66b7741049c04ecf98a20a9af15f6c3dc"
		standard = "v1,9xmhYGIzwmqKqn8tifqPpCvQROQtYUQt1kURuCr7pEQ="
		stripe   = "d63825768d736fe2a38b71011c4472f674cffba53564c150912e1d5dee4a3c71"
	)
	ts := strconv.Itoa(eventTime)
	tests := []struct {
		name   string
		scheme *Scheme
		header http.Header
		want   error
	}{
		{"timestamped-nothing", Timestamped, http.Header{}, ErrMissing},
		{"timestamped-no-time", Timestamped, http.Header{"X-Webhook-Signature": {"sha256=" + good}}, ErrMissing},
		{"timestamped-no-signature", Timestamped, http.Header{"X-Webhook-Timestamp": {ts + "000"}}, ErrMissing},
		{"timestamped-empty-signature", Timestamped, http.Header{"X-Webhook-Timestamp": {ts + "000"}, "X-Webhook-Signature": {""}}, ErrMissing},
		{"timestamped-seconds", Timestamped, http.Header{"X-Webhook-Timestamp": {ts}, "X-Webhook-Signature": {"sha256=" + good}}, ErrMalformed},
		{"timestamped-sign", Timestamped, http.Header{"X-Webhook-Timestamp": {"+" + ts + "000"}, "X-Webhook-Signature": {"sha256=" + good}}, ErrMalformed},
		{"timestamped-negative", Timestamped, http.Header{"X-Webhook-Timestamp": {"-" + ts + "000"}, "X-Webhook-Signature": {"sha256=" + good}}, ErrMalformed},
		{"timestamped-space", Timestamped, http.Header{"X-Webhook-Timestamp": {ts + "000 "}, "X-Webhook-Signature": {"sha256=" + good}}, ErrMalformed},
		{"timestamped-fraction", Timestamped, http.Header{"X-Webhook-Timestamp": {ts + ".000"}, "X-Webhook-Signature": {"sha256=" + good}}, ErrMalformed},
		{"timestamped-arabic-digits", Timestamped, http.Header{"X-Webhook-Timestamp": {"١٧٦٧٢٢٥٦٠٠٠٠٠"}, "X-Webhook-Signature": {"sha256=" + good}}, ErrMalformed},
		{"timestamped-endless", Timestamped, http.Header{"X-Webhook-Timestamp": {strings.Repeat("9", 10000)}, "X-Webhook-Signature": {"sha256=" + good}}, ErrMalformed},
		{"timestamped-twice", Timestamped, http.Header{"X-Webhook-Timestamp": {ts + "000", ts + "001"}, "X-Webhook-Signature": {"sha256=" + good}}, ErrMalformed},
		{"timestamped-no-prefix", Timestamped, http.Header{"X-Webhook-Timestamp": {ts + "000"}, "X-Webhook-Signature": {good}}, ErrMalformed},
		{"timestamped-other-algorithm", Timestamped, http.Header{"X-Webhook-Timestamp": {ts + "000"}, "X-Webhook-Signature": {"sha1=" + good}}, ErrMalformed},
		{"timestamped-short", Timestamped, http.Header{"X-Webhook-Timestamp": {ts + "000"}, "X-Webhook-Signature": {"sha256=" + good[:62]}}, ErrMismatch},
		{"timestamped-empty-hex", Timestamped, http.Header{"X-Webhook-Timestamp": {ts + "000"}, "X-Webhook-Signature": {"sha256="}}, ErrMismatch},
		{"timestamped-long", Timestamped, http.Header{"X-Webhook-Timestamp": {ts + "000"}, "X-Webhook-Signature": {"sha256=" + good + "00"}}, ErrMismatch},
		{"timestamped-leading-zero-is-signed-text", Timestamped, http.Header{"X-Webhook-Timestamp": {"0" + ts + "000"}, "X-Webhook-Signature": {"sha256=" + good}}, ErrMismatch},
		{"timestamped-upper-case", Timestamped, http.Header{"X-Webhook-Timestamp": {ts + "000"}, "X-Webhook-Signature": {"sha256=" + strings.ToUpper(good)}}, nil},
		{"timestamped-unknown-kind-first", Timestamped, http.Header{"X-Webhook-Timestamp": {ts + "000"}, "X-Webhook-Signature": {"sha512=00, sha256=" + good}}, nil},

		{"github-nothing", GitHub, http.Header{"X-Hub-Signature": {"sha1=776bec0986ee4d86d8de26f0869cd4b9db67ae5e"}}, ErrMissing},
		{"github-sha1-in-new-header", GitHub, http.Header{"X-Hub-Signature-256": {"sha1=776bec0986ee4d86d8de26f0869cd4b9db67ae5e"}}, ErrMalformed},
		{"github-control-characters", GitHub, http.Header{"X-Hub-Signature-256": {"sha256=\x00\x01"}}, ErrMalformed},

		{"stripe-nothing", Stripe, http.Header{}, ErrMissing},
		{"stripe-no-time", Stripe, http.Header{"Stripe-Signature": {"v1=" + stripe}}, ErrMalformed},
		{"stripe-no-v1", Stripe, http.Header{"Stripe-Signature": {"t=" + ts + ",v0=" + stripe}}, ErrMalformed},
		{"stripe-two-times", Stripe, http.Header{"Stripe-Signature": {"t=" + ts + ",t=1,v1=" + stripe}}, ErrMalformed},
		{"stripe-two-headers", Stripe, http.Header{"Stripe-Signature": {"t=" + ts, "v1=" + stripe}}, ErrMalformed},
		{"stripe-not-a-number", Stripe, http.Header{"Stripe-Signature": {"t=now,v1=" + stripe}}, ErrMalformed},
		{"stripe-empty-time", Stripe, http.Header{"Stripe-Signature": {"t=,v1=" + stripe}}, ErrMalformed},
		{"stripe-commas", Stripe, http.Header{"Stripe-Signature": {strings.Repeat(",", 5000)}}, ErrMalformed},
		{"stripe-bad-then-good", Stripe, http.Header{"Stripe-Signature": {"t=" + ts + ",v1=zz,v1=00,v9=1,v1=" + stripe}}, nil},
		{"stripe-test-mark-ignored", Stripe, http.Header{"Stripe-Signature": {"t=" + ts + ",v0=6ffb,v1=" + stripe}}, nil},

		{"standard-nothing", Standard, http.Header{}, ErrMissing},
		{"standard-no-id", Standard, http.Header{"Webhook-Timestamp": {ts}, "Webhook-Signature": {standard}}, ErrMissing},
		{"standard-no-time", Standard, http.Header{"Webhook-Id": {"msg_1"}, "Webhook-Signature": {standard}}, ErrMissing},
		{"standard-dotted-id", Standard, http.Header{"Webhook-Id": {"msg_1.2"}, "Webhook-Timestamp": {ts}, "Webhook-Signature": {standard}}, ErrMalformed},
		{"standard-long-id", Standard, http.Header{"Webhook-Id": {strings.Repeat("m", 257)}, "Webhook-Timestamp": {ts}, "Webhook-Signature": {standard}}, ErrMalformed},
		{"standard-id-not-utf8", Standard, http.Header{"Webhook-Id": {"msg\xff"}, "Webhook-Timestamp": {ts}, "Webhook-Signature": {standard}}, ErrMalformed},
		{"standard-two-ids", Standard, http.Header{"Webhook-Id": {"msg_1", "msg_2"}, "Webhook-Timestamp": {ts}, "Webhook-Signature": {standard}}, ErrMalformed},
		{"standard-unknown-kinds-alone", Standard, http.Header{"Webhook-Id": {"msg_1"}, "Webhook-Timestamp": {ts}, "Webhook-Signature": {"v2,AAAA v3"}}, ErrMalformed},
		{"standard-names-are-not-mixed", Standard, http.Header{"Svix-Id": {"msg_1"}, "Webhook-Timestamp": {ts}, "Webhook-Signature": {standard}}, ErrMissing},
		{"standard-unknown-then-good", Standard, http.Header{"Webhook-Id": {"msg_1"}, "Webhook-Timestamp": {ts}, "Webhook-Signature": {"v2,AAAA v1a,AAAA v1,!! v1,AAAA " + standard}}, nil},
		{"standard-two-lines", Standard, http.Header{"Webhook-Id": {"msg_1"}, "Webhook-Timestamp": {ts}, "Webhook-Signature": {"v1,AAAA", standard}}, nil},
		{"standard-other-event", Standard, http.Header{"Webhook-Id": {"msg_2"}, "Webhook-Timestamp": {ts}, "Webhook-Signature": {standard}}, ErrMismatch},
	}
	secrets := map[*Scheme]string{Timestamped: plain, GitHub: plain, Stripe: "whsec_test_secret", Standard: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := tt.scheme.Verify(now, tt.header, []byte(eventBody), DefaultTolerance, parseKeys(t, tt.scheme, secrets[tt.scheme])...)
			if !errors.Is(err, tt.want) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			if tt.want == nil {
				return
			}
			e, ok := errors.AsType[*Error](err)
			if !ok || !strings.HasSuffix(e.Sentence, ".") {
				t.Errorf("got %#v, want a public sentence", err)
			}
		})
	}
}

// TestSentencesTellNoSecret: the error of a forged request must not help to forge the next one.
func TestSentencesTellNoSecret(t *testing.T) {
	for _, v := range vectors {
		keys := parseKeys(t, v.scheme, v.secrets...)
		_, err := v.scheme.Verify(time.Unix(v.unix, 0), headerOf(v.header), []byte("forged"), DefaultTolerance, keys...)
		if !errors.Is(err, ErrMismatch) {
			t.Fatalf("%s: got %v, want %v", v.name, err, ErrMismatch)
		}
		for _, k := range keys {
			if k.mac == nil {
				continue
			}
			lead := ""
			if c, err := v.scheme.read(headerOf(v.header)); err == nil {
				lead = v.scheme.lead(c)
			}
			expected := hex.EncodeToString(mac(k.mac, lead, []byte("forged")))
			if strings.Contains(err.Error(), expected) || strings.Contains(err.Error(), string(k.mac)) {
				t.Errorf("%s: the error tells the signature or the secret: %v", v.name, err)
			}
		}
	}
}

func TestParseKey(t *testing.T) {
	tests := []struct {
		name   string
		scheme *Scheme
		secret string
		ok     bool
	}{
		{"empty-stripe", Stripe, "", false},
		{"empty-github", GitHub, "", false},
		{"empty-standard", Standard, "", false},
		{"prefix-alone", Standard, "whsec_", false},
		{"not-base64", Standard, "whsec_???", false},
		{"padding-dropped", Standard, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwAA", true},
		{"without-prefix", Standard, "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", true},
		{"short-public", Standard, "whpk_AAAA", false},
		{"short-private", Standard, "whsk_AAAA", false},
		{"new", Standard, NewStandardSecret(), true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := tt.scheme.ParseKey([]byte(tt.secret))
			if (err == nil) != tt.ok {
				t.Errorf("got %v, want ok %v", err, tt.ok)
			}
			if rest := strings.TrimPrefix(tt.secret, "whsec_"); err != nil && rest != "" && strings.Contains(err.Error(), rest) {
				t.Errorf("the error holds the secret: %v", err)
			}
		})
	}
}

func TestNewStandardSecretsDiffer(t *testing.T) {
	a, b := NewStandardSecret(), NewStandardSecret()
	if a == b {
		t.Fatalf("got the same secret twice")
	}
	if k := parseKeys(t, Standard, a)[0]; len(k.mac) != secretSize {
		t.Errorf("got %d bytes, want %d", len(k.mac), secretSize)
	}
}
