package limit

import "github.com/prometheus/client_golang/prometheus"

// The metrics. Their labels come from the configuration.
var (
	requestsTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "gatehouse_limit_requests_total", Help: "Requests that were counted.",
	}, []string{"zone"})
	refusedTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "gatehouse_limit_refused_total", Help: "Requests for which a policy had no room; in shadow mode they passed.",
	}, []string{"zone", "policy"})
	degradedTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "gatehouse_limit_store_errors_total", Help: "Requests that Redis did not answer for, and that on_store_error has decided.",
	}, []string{"zone"})
	modeDesc     = prometheus.NewDesc("gatehouse_limit_mode", "1 for how the zone counts now: local, exact, leased, or open, closed and local-share while Redis does not answer.", []string{"zone", "mode"}, nil)
	keysDesc     = prometheus.NewDesc("gatehouse_limit_keys", "Keys that are remembered.", []string{"zone"}, nil)
	bytesDesc    = prometheus.NewDesc("gatehouse_limit_table_bytes", "Memory of the table of keys.", []string{"zone"}, nil)
	evictedDesc  = prometheus.NewDesc("gatehouse_limit_evicted_total", "Keys that gave way to others before they had nothing to remember.", []string{"zone"}, nil)
	overflowDesc = prometheus.NewDesc("gatehouse_limit_overflow_total", "Requests of new keys that shared one state, as the table was full.", []string{"zone"}, nil)
)

func collectors() []prometheus.Collector {
	return []prometheus.Collector{requestsTotal, refusedTotal, degradedTotal, tableCollector{}}
}

// meters are the counters of one engine.
type meters struct {
	requests prometheus.Counter
	degraded prometheus.Counter
	refused  []prometheus.Counter // by policy; the last is that of in_flight
}

func newMeters(e *Engine) meters {
	m := meters{requests: requestsTotal.WithLabelValues(e.Zone), degraded: degradedTotal.WithLabelValues(e.Zone)}
	for _, p := range e.Policies {
		m.refused = append(m.refused, refusedTotal.WithLabelValues(e.Zone, p.Name))
	}
	m.refused = append(m.refused, refusedTotal.WithLabelValues(e.Zone, "in_flight"))
	return m
}

// tableCollector looks at the tables when the metrics are asked for.
type tableCollector struct{}

// Describe names the metrics.
func (tableCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{modeDesc, keysDesc, bytesDesc, evictedDesc, overflowDesc} {
		ch <- d
	}
}

// Collect measures the tables in use.
func (tableCollector) Collect(ch chan<- prometheus.Metric) {
	seen := map[string]bool{}
	for _, e := range serving() {
		ch <- prometheus.MustNewConstMetric(modeDesc, prometheus.GaugeValue, 1, e.Zone, string(e.mode()))
	}
	for _, z := range inUse() {
		if seen[z.id.name] { // two layouts of one zone, during a reload
			continue
		}
		seen[z.id.name] = true
		ch <- prometheus.MustNewConstMetric(keysDesc, prometheus.GaugeValue, float64(z.table.Len()), z.id.name)
		ch <- prometheus.MustNewConstMetric(bytesDesc, prometheus.GaugeValue, float64(z.table.Bytes()), z.id.name)
		ch <- prometheus.MustNewConstMetric(evictedDesc, prometheus.CounterValue, float64(z.table.Evicted.Load()), z.id.name)
		ch <- prometheus.MustNewConstMetric(overflowDesc, prometheus.CounterValue, float64(z.table.Overflowed.Load()), z.id.name)
	}
}
