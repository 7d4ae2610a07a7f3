package shared

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestMain fails if a link or a client works on after its test.
func TestMain(m *testing.M) {
	code := m.Run()
	if left := leaked(5 * time.Second); left != "" && code == 0 {
		fmt.Fprintf(os.Stderr, "still at work after the tests:\n%s\n", left)
		code = 1
	}
	os.Exit(code)
}

// leaked are the goroutines of ours and of the driver that do not end within the time.
func leaked(patience time.Duration) string {
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		var left []string
		buf := make([]byte, 1<<20)
		for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if strings.Contains(g, "limit/shared.(*") || strings.Contains(g, "go-redis") || strings.Contains(g, "redistest.") {
				left = append(left, g)
			}
		}
		if len(left) == 0 || time.Now().After(deadline) {
			return strings.Join(left, "\n\n")
		}
		<-tick.C
	}
}
