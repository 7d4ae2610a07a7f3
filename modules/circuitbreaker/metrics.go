package circuitbreaker

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// The metrics. Their labels come from the configuration.
var (
	stateDesc = prometheus.NewDesc("gatehouse_circuit_breaker_state",
		"What the circuit does with requests: 0 all pass, 1 a part passes, as probes or in a slow start, 2 none passes.", []string{"zone"}, nil)
	transitionsTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "gatehouse_circuit_breaker_transitions_total", Help: "Changes of the circuit's state.",
	}, []string{"zone", "to"})
	requestsTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "gatehouse_circuit_breaker_requests_total",
		Help: "Requests by outcome: success, failure and ignored (the client left or the gateway refused) of those that passed, attempts counted one by one; broken, also counted as success before, where the answer broke off; stale, fallback and refused of those that did not pass.",
	}, []string{"zone", "outcome"})
	retriesTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "gatehouse_circuit_breaker_retries_total", Help: "Requests that were sent again.",
	}, []string{"zone"})
	retriesRefusedTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "gatehouse_circuit_breaker_retries_refused_total", Help: "Requests that were not sent again as the retry budget was used up.",
	}, []string{"zone"})
)

// meters are the counters of one zone.
type meters struct {
	outcomes                         [3]prometheus.Counter // by Outcome
	broken, stale, fallback, refused prometheus.Counter
	retries, retriesRefused          prometheus.Counter
}

func newMeters(zone string) meters {
	of := func(outcome string) prometheus.Counter { return requestsTotal.WithLabelValues(zone, outcome) }
	return meters{
		outcomes: [3]prometheus.Counter{Ignored: of("ignored"), Success: of("success"), Failure: of("failure")},
		broken:   of("broken"), stale: of("stale"), fallback: of("fallback"), refused: of("refused"),
		retries: retriesTotal.WithLabelValues(zone), retriesRefused: retriesRefusedTotal.WithLabelValues(zone),
	}
}

func stateValue(s State) float64 {
	switch s {
	case Closed:
		return 0
	case Open:
		return 2
	}
	return 1
}

// stateCollector looks at the circuits when the metrics are asked for.
type stateCollector struct{}

// Describe names the metric.
func (stateCollector) Describe(ch chan<- *prometheus.Desc) { ch <- stateDesc }

// Collect shows the state of each circuit in use.
func (stateCollector) Collect(ch chan<- prometheus.Metric) {
	now := time.Now()
	zones.Range(func(key, value any) bool {
		ch <- prometheus.MustNewConstMetric(stateDesc, prometheus.GaugeValue, stateValue(value.(*zone).breaker.State(now)), key.(string))
		return true
	})
}
