package admission

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"
	"time"
)

// TestFiveTimesOverload sends five times what a simulated app can do through a zone, for a while.
func TestFiveTimesOverload(t *testing.T) {
	for name, service := range map[string]time.Duration{"quick": 20 * time.Millisecond, "slow": 300 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			const workers = 20
			span := 1000 * service
			r := rand.New(rand.NewPCG(5, 6))
			s := fixed(0, 100)
			s.adaptive, s.known = defaultAdaptive, [priorities]bool{true, true, true}
			d := newDesk(t, s)
			begin, a := d.now, newApp(workers, exponential(r, service))
			capacity := float64(workers) / service.Seconds()
			var came, good [priorities]int
			var latencies []time.Duration
			type stay struct {
				k       *ticket
				arrived time.Time
				ends    time.Time
			}
			var flying, waiting []stay
			next := begin
			for d.now.Sub(begin) < span {
				first := slices.IndexFunc(flying, func(f stay) bool {
					return !slices.ContainsFunc(flying, func(g stay) bool { return g.ends.Before(f.ends) })
				})
				if first >= 0 && flying[first].ends.Before(next) {
					f := flying[first]
					flying = slices.Delete(flying, first, first+1)
					d.now = f.ends
					f.k.took, f.k.status = d.now.Sub(f.k.began), http.StatusOK
					d.done(f.k)
					latencies = append(latencies, d.now.Sub(f.arrived))
					good[f.k.priority]++
				} else {
					d.now = next
					next = next.Add(time.Duration(r.ExpFloat64() / (5 * capacity) * float64(time.Second)))
					p := [10]priority{high, low, low, low}[r.IntN(10)] // and 6 of 10 low too
					if r.IntN(2) == 0 && p == low {
						p = normal
					}
					came[p]++
					k, v := d.come(p)
					switch v {
					case admitted:
						flying = append(flying, stay{k, d.now, a.take(d.now)})
					case waits:
						waiting = append(waiting, stay{k, d.now, d.now.Add(500 * time.Millisecond)})
					}
				}
				waiting = slices.DeleteFunc(waiting, func(w stay) bool {
					v := verdictOf(w.k)
					if v == "waits" && d.now.After(w.ends) {
						v = reasons[d.withdraw(w.k, waited)]
					}
					if v == "admitted" {
						flying = append(flying, stay{w.k, w.arrived, a.take(d.now)})
					}
					return v != "waits"
				})
			}
			slices.Sort(latencies)
			goodput := float64(len(latencies)) / span.Seconds() / capacity
			share := float64(good[high]) / float64(came[high])
			p99 := latencies[len(latencies)*99/100]
			report := fmt.Sprintf("goodput %.3f of capacity, high priority %.4f admitted, p99 %v, limit %.0f, normal %d/%d, low %d/%d",
				goodput, share, p99.Round(time.Millisecond), d.classes[0].limiter.limit, good[normal], came[normal], good[low], came[low])
			t.Log(report)
			if goodput < 0.88 || share < 0.99 || p99 > 10*service+100*time.Millisecond || good[low]*came[normal] > good[normal]*came[low] {
				t.Error(report)
			}
		})
	}
}
