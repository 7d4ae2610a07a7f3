// Package meter puts our metrics into the registry of each configuration. Collectors live as long
// as the process, so that a reload resets no counter; their labels come from the configuration only.
package meter

import (
	"errors"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"
)

// Register adds collectors to the registry of the configuration being provisioned. Several handlers
// of one configuration may register the same ones.
func Register(ctx caddy.Context, collectors ...prometheus.Collector) error {
	registry := ctx.GetMetricsRegistry()
	if registry == nil {
		return nil
	}
	for _, c := range collectors {
		if err := registry.Register(c); err != nil {
			if _, again := errors.AsType[prometheus.AlreadyRegisteredError](err); !again {
				return err
			}
		}
	}
	return nil
}
