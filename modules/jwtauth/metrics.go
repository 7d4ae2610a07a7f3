package jwtauth

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// The metrics. Their labels come from the configuration and from the list of outcomes.
var (
	requestsTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "gatehouse_jwt_auth_requests_total", Help: "Requests by what was decided about their token; cached are those that passed with a token which was verified before.",
	}, []string{"outcome"})
	fetches = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "gatehouse_jwt_auth_key_fetches_total", Help: "Fetches of keys, by the URL of the keys or of the issuer.",
	}, []string{"source", "outcome"})
	ageDesc = prometheus.NewDesc("gatehouse_jwt_auth_key_set_age_seconds", "How long ago the keys in force were fetched.", []string{"source"}, nil)
)

// counted are the counters by outcome.
var counted = func() (c [outcomes]prometheus.Counter) {
	for o := range outcomes {
		c[o] = requestsTotal.WithLabelValues(o.String())
	}
	return c
}()

// ageCollector looks at the fetched keys when the metrics are asked for.
type ageCollector struct{}

// Describe names the metric.
func (ageCollector) Describe(ch chan<- *prometheus.Desc) { ch <- ageDesc }

// Collect measures the keys in use.
func (ageCollector) Collect(ch chan<- prometheus.Metric) {
	seen := map[string]bool{}
	for _, r := range remotesInUse() {
		s := r.state.Load()
		if s == nil || seen[r.String()] {
			continue
		}
		seen[r.String()] = true
		ch <- prometheus.MustNewConstMetric(ageDesc, prometheus.GaugeValue, time.Since(s.fetched).Seconds(), r.String())
	}
}
