package gatehouse

import "github.com/prometheus/client_golang/prometheus"

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
