package integration

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

// BenchmarkDeliveries measures 500 deliveries to one endpoint, alone and while as many wait for another one,
// which hangs.
func BenchmarkDeliveries(b *testing.B) {
	const events = 500
	for b.Loop() {
		alone, beside := deliveries(b, events, false), deliveries(b, events, true)
		b.ReportMetric(alone, "alone/s")
		b.ReportMetric(beside, "beside/s")
		b.ReportMetric(beside/alone, "ratio")
	}
}

// deliveries is how many a second are made of events that are all in.
func deliveries(b *testing.B, events int, beside bool) float64 {
	var arrived atomic.Int64
	begin := make(chan struct{})
	sink := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		<-begin
		arrived.Add(1)
	}))
	defer sink.Close()
	hanging := script{name: "silent", answer: says("", silence)}.start(b)
	g := newSending(b, time.Minute, "")
	defer g.kill()
	targets := map[string]string{"a": sink.URL}
	if beside {
		targets["b"] = hanging.url
	}
	for typ, url := range targets {
		g.post(b, "/endpoints", fmt.Sprintf(`{"url":%q,"types":[%q]}`, url, typ), "id")
		for range events {
			g.post(b, "/events", fmt.Sprintf(`{"type":%q,"payload":1}`, typ), "id")
		}
	}
	began := time.Now()
	close(begin)
	eventually(b, 5*time.Minute, func() error {
		if n := arrived.Load(); n < int64(events) {
			return fmt.Errorf("%d of %d are delivered", n, events)
		}
		return nil
	})
	return float64(events) / time.Since(began).Seconds()
}
