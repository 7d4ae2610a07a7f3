package admission

import "github.com/prometheus/client_golang/prometheus"

// collector reads the zones in use when it is scraped, so that requests pay nothing for it.
type collector struct {
	each func(func(*zone))
}

var (
	byClass    = []string{"zone", "class"}
	byPriority = []string{"zone", "class", "priority"}

	inFlightDesc = prometheus.NewDesc("gatehouse_admission_in_flight", "Requests that have a place.", byClass, nil)
	limitDesc    = prometheus.NewDesc("gatehouse_admission_limit", "How many requests may have a place at once; absent where adaptive is off.", byClass, nil)
	streamsDesc  = prometheus.NewDesc("gatehouse_admission_streams", "Requests that go on without a place: upgraded connections, event streams and slow clients.", byClass, nil)
	queuedDesc   = prometheus.NewDesc("gatehouse_admission_queued", "Requests that wait for a place.", byPriority, nil)
	admittedDesc = prometheus.NewDesc("gatehouse_admission_admitted_total", "Requests that were given a place.", byPriority, nil)
	shedDesc     = prometheus.NewDesc("gatehouse_admission_shed_total", "Requests that were sent away: full (no place and no room to wait), wait (waited too long), codel (let go from a standing queue), cpu (the gateway is under pressure), cap (max_in_flight), left (the client went away while it waited).", append(byPriority, "reason"), nil)
)

func (collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{inFlightDesc, limitDesc, streamsDesc, queuedDesc, admittedDesc, shedDesc} {
		to <- d
	}
}

func (c collector) Collect(to chan<- prometheus.Metric) {
	c.each(func(z *zone) {
		for _, m := range z.metrics() {
			to <- m
		}
	})
}

func (z *zone) metrics() []prometheus.Metric {
	z.mu.Lock()
	defer z.mu.Unlock()
	var all []prometheus.Metric
	add := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		all = append(all, prometheus.MustNewConstMetric(d, kind, v, labels...))
	}
	for _, c := range z.classes {
		add(inFlightDesc, prometheus.GaugeValue, float64(c.places.n), z.name, c.name)
		add(streamsDesc, prometheus.GaugeValue, float64(c.streams), z.name, c.name)
		if z.set.adaptive.Max > 0 {
			add(limitDesc, prometheus.GaugeValue, float64(int(c.limiter.limit)), z.name, c.name)
		}
		for p, name := range priorityNames {
			add(queuedDesc, prometheus.GaugeValue, float64(c.queue.lines[p].n), z.name, c.name, name)
			add(admittedDesc, prometheus.CounterValue, float64(c.counts[p][admitted]), z.name, c.name, name)
			for v, reason := range reasons {
				if reason != "" {
					add(shedDesc, prometheus.CounterValue, float64(c.counts[p][v]), z.name, c.name, name, reason)
				}
			}
		}
	}
	return all
}
