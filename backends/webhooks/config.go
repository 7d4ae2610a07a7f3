package webhooks

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/service"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

const (
	defaultTimeout = 15 * time.Second
	maxTimeout     = 2 * time.Minute
)

// Config is the configuration of the webhooks backend. The zero value works: it sends to public
// addresses over https alone.
type Config struct {
	service.Authority

	// AllowPrivate lists networks in CIDR form that events may be sent to although they are not
	// public, such as 10.0.0.0/8 or 127.0.0.0/8; there also over plain http. Default: none.
	AllowPrivate []string `json:"allow_private,omitempty"`
	// Timeout is how long one attempt may take, from dialling to the last byte of the answer, up to
	// 2m. Default: 15s.
	Timeout unit.Duration `json:"timeout,omitempty"`
}

// Validate says what is wrong with the configuration and how to correct it.
func (c Config) Validate() error {
	if c.Timeout.Std() > maxTimeout {
		return fmt.Errorf("timeout must be at most %s, not %s", maxTimeout, c.Timeout)
	}
	if err := c.Authority.Validate(); err != nil {
		return err
	}
	_, err := parsePrefixes(c.AllowPrivate)
	return err
}

func parsePrefixes(texts []string) ([]netip.Prefix, error) {
	prefixes := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		p, err := netip.ParsePrefix(text)
		if err != nil || p.Addr().Is4In6() {
			return nil, fmt.Errorf("allow_private: %q is not a network, write it such as 10.0.0.0/8 or fd00::/8", text)
		}
		prefixes[i] = p.Masked()
	}
	return prefixes, nil
}
