package jobs

import (
	"maps"
	"sync"

	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

// byQueue counts by queue. Queues are the configuration's, or have been.
type byQueue struct {
	mu sync.Mutex
	n  map[string]int
}

func (c *byQueue) add(queue string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[string]int{}
	}
	c.n[queue]++
}

func (c *byQueue) all() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.n)
}

// Measure tells the numbers of this instance since the process began to use its configuration.
func (s *Service) Measure(tell func(service.Sample)) {
	for _, queue := range s.workedQueues() {
		tell(service.Sample{
			Name: "gatehouse_jobs_breaker_open", Help: "Targets of the queue whose jobs are held back, as they fail or cannot be reached.",
			Label: "queue", Value: queue, Number: float64(len(s.breakers.held(queue))),
		})
	}
	for queue, n := range s.trips.all() {
		tell(service.Sample{
			Name: "gatehouse_jobs_breaker_trips_total", Help: "Times that jobs of the queue began to be held back, as their target failed.",
			Label: "queue", Value: queue, Number: float64(n), Counter: true,
		})
	}
	for queue, n := range s.deaths.all() {
		tell(service.Sample{
			Name: "gatehouse_jobs_dead_total", Help: "Jobs of the queue that died: their attempts are used up, or their target refused them.",
			Label: "queue", Value: queue, Number: float64(n), Counter: true,
		})
	}
}
