package webhookverify

import (
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/secret"
	"github.com/gatehouse-proxy/gatehouse/internal/signature"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
)

const rotatingSite = `{
	gatehouse {
		data_dir @@data@@
		secret one file @@data@@/one {
			overlap 1h
		}
	}
}
:80 {
	webhook_verify stripe {
		secret one
	}
	respond 204
}
`

// TestTheSecretIsRotatedUnderLoad replaces the file three times while webhooks come: those signed with
// the newest value and with the one before always pass.
func TestTheSecretIsRotatedUnderLoad(t *testing.T) {
	dir := t.TempDir()
	writeSecret(t, dir, "one", "whsec_0")
	g, err := modtest.StartIn(t, dir, rotatingSite)
	if err != nil {
		t.Fatal(err)
	}
	send := func(value string) int {
		r := signed(t, signature.Stripe, "", `{"id":"evt_1"}`, time.Now(), value)
		return g.Do(r).StatusCode
	}
	var known atomic.Pointer[string] // a value that the gateway has
	first := "whsec_0"
	known.Store(&first)
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if value := *known.Load(); send(value) != http.StatusNoContent {
					t.Errorf("a webhook signed with %s was refused", value)
					return
				}
			}
		})
	}
	for _, next := range []string{"whsec_1", "whsec_2", "whsec_3"} {
		writeSecret(t, dir, "one", next)
		deadline := time.Now().Add(2 * time.Second)
		for send(next) != http.StatusNoContent {
			if time.Now().After(deadline) {
				t.Fatalf("%s is not known after 2 s", next)
			}
		}
		if code := send(*known.Load()); code != http.StatusNoContent {
			t.Errorf("in the overlap the value before is answered %d", code)
		}
		known.Store(&next)
	}
	close(done)
	wg.Wait()
	if code := send("whsec_4"); code != http.StatusUnauthorized {
		t.Errorf("another value is answered %d", code)
	}
}

func TestTheVersionThatFitsIsMarked(t *testing.T) {
	version := func(label string) secret.Version {
		return secret.Version{Label: label, Value: secret.NewValue([]byte("value of " + label))}
	}
	set := secret.NewSet("s", version("new"), version("old"))
	keys := []*secret.Derived[[]key]{newKeys(signature.Stripe, set)}
	now := time.Now()
	r := signed(t, signature.Stripe, "", "{}", now, "value of old")
	if _, err := verify(signature.Stripe, now, r.Header, []byte("{}"), time.Minute, keys); err != nil {
		t.Fatal(err)
	}
	if all := set.Versions(); !all[0].LastUsed().IsZero() || all[1].LastUsed().IsZero() {
		t.Error("another version than the one that fits is marked as used")
	}
	set.Replace([]secret.Version{version("new")})
	if _, err := verify(signature.Stripe, now, r.Header, []byte("{}"), time.Minute, keys); err == nil || !strings.Contains(err.Error(), signature.ErrMismatch.Error()) {
		t.Errorf("after its retirement: %v", err)
	}
	set.Replace(nil)
	if _, err := verify(signature.Stripe, now, r.Header, []byte("{}"), time.Minute, keys); err == nil || !strings.Contains(forged(err).Error(), "cannot be verified now") {
		t.Errorf("without a version: %v", forged(err))
	}
}

func TestABrokenVersionLeavesTheKeysInForce(t *testing.T) {
	dir := t.TempDir()
	writeSecret(t, dir, "one", standardSecret)
	g, err := modtest.StartIn(t, dir, strings.Replace(rotatingSite, "webhook_verify stripe", "webhook_verify standard", 1))
	if err != nil {
		t.Fatal(err)
	}
	writeSecret(t, dir, "one", "whsec_!!")
	end := time.Now().Add(300 * time.Millisecond)
	for time.Now().Before(end) {
		r := signed(t, signature.Standard, "msg_1", "{}", time.Now(), standardSecret)
		if code := g.Do(r).StatusCode; code != http.StatusNoContent {
			t.Fatalf("got %d with %s", code, filepath.Join(dir, "one"))
		}
	}
}
