package gatehouse

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

// The metrics of secrets. Their label is a name of the configuration, or that of a generated key.
var (
	secretAgeDesc     = prometheus.NewDesc("gatehouse_secret_age_seconds", "Age of the last good read of the secret's source. It grows beyond a minute while reads fail.", []string{"secret"}, nil)
	secretFailingDesc = prometheus.NewDesc("gatehouse_secret_failing", "1 while the secret's source cannot be read and what was read before is in force, else 0.", []string{"secret"}, nil)
	secretActiveDesc  = prometheus.NewDesc("gatehouse_secret_versions", "Active versions of the secret.", []string{"secret"}, nil)
)

// secretCollector looks at the secrets when the metrics are asked for.
type secretCollector struct{ app *App }

// Describe names the metrics.
func (secretCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- secretAgeDesc
	ch <- secretFailingDesc
	ch <- secretActiveDesc
}

// Collect measures the secrets of the configuration that is asked.
func (c secretCollector) Collect(ch chan<- prometheus.Metric) {
	host := c.app.host.Load()
	if host == nil {
		return
	}
	for _, s := range host.SecretStatus() {
		failing, active := 0.0, 0.0
		if s.Error != "" {
			failing = 1
		}
		for _, v := range s.Versions {
			if v.State != "coming" {
				active++
			}
		}
		ch <- prometheus.MustNewConstMetric(secretAgeDesc, prometheus.GaugeValue, s.AgeSeconds, s.Name)
		ch <- prometheus.MustNewConstMetric(secretFailingDesc, prometheus.GaugeValue, failing, s.Name)
		ch <- prometheus.MustNewConstMetric(secretActiveDesc, prometheus.GaugeValue, active, s.Name)
	}
}

// backendCollector passes on what the bundled backends measure. It describes nothing beforehand, as the
// backends that a configuration uses are open only later.
type backendCollector struct{ app *App }

// Describe names no metric.
func (backendCollector) Describe(chan<- *prometheus.Desc) {}

// Collect asks the backends of the configuration that is asked.
func (c backendCollector) Collect(ch chan<- prometheus.Metric) {
	host := c.app.host.Load()
	if host == nil {
		return
	}
	host.Measure(func(s service.Sample) {
		kind := prometheus.GaugeValue
		if s.Counter {
			kind = prometheus.CounterValue
		}
		ch <- prometheus.MustNewConstMetric(prometheus.NewDesc(s.Name, s.Help, []string{s.Label}, nil), kind, s.Number, s.Value)
	})
}
