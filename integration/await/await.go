// Package await is how tests of real servers wait for them.
package await

import (
	"testing"
	"time"
)

// patience is how long is waited for anything.
const patience = 30 * time.Second

// For waits until try has no error, for 30 s at most.
func For(t testing.TB, what string, try func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waiting for %s: %v", what, err)
		}
		<-tick.C
	}
}
