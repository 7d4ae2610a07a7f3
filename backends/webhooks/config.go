package webhooks

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/egress"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

const (
	defaultTimeout = 15 * time.Second
	maxTimeout     = 2 * time.Minute
	// minOwnerBytes is the smallest owner_bytes: the largest event fits, with deliveries.
	minOwnerBytes = 1 << 20
)

// Config is the configuration of the webhooks backend. The zero value works: it sends to public
// addresses over https alone.
type Config struct {
	// Authority says whose an endpoint or an event is. The scope of services is webhooks:write. What a service
	// or an operator makes without naming an owner belongs to nobody.
	service.Authority

	// AllowPrivate lists what events may be sent to although it is not public, also over plain http:
	// networks in CIDR form, such as 10.0.0.0/8, and places, as HOST:PORT or HOST:PORT/path/prefix. Of the
	// gateway itself only sites whose host and port stand here are sent to, a network does not count, and
	// never its admin endpoint. Default: none.
	AllowPrivate []string `json:"allow_private,omitempty"`
	// UserPrivate says that AllowPrivate holds for endpoints with an owner, too. Default: off, for nobody's
	// endpoints alone: users' are strangers' places.
	UserPrivate bool `json:"user_private,omitempty"`
	// OwnerBytes bounds the events of one owner, which are kept for 30 days: their payloads, and 1KiB for each
	// and for each of its deliveries. More are refused with 429. It is counted once a second at most. Default:
	// no bound.
	OwnerBytes unit.Size `json:"owner_bytes,omitempty"`
	// Timeout is how long one attempt may take, from dialling to the last byte of the answer, up to
	// 2m. Default: 15s.
	Timeout unit.Duration `json:"timeout,omitempty"`
}

// Validate says what is wrong with the configuration and how to correct it.
func (c Config) Validate() error {
	if c.Timeout.Std() > maxTimeout {
		return fmt.Errorf("timeout must be at most %s, not %s", maxTimeout, c.Timeout)
	}
	if c.OwnerBytes < 0 || c.OwnerBytes > 0 && c.OwnerBytes < minOwnerBytes {
		return fmt.Errorf("owner_bytes %s is too small, give at least %s", c.OwnerBytes, unit.Size(minOwnerBytes))
	}
	if err := c.Authority.Validate(); err != nil {
		return err
	}
	_, _, err := parsePrivate(c.AllowPrivate)
	return err
}

func parsePrivate(entries []string) (networks []netip.Prefix, places egress.Places, err error) {
	for _, entry := range entries {
		if network, err := netip.ParsePrefix(entry); err == nil && !network.Addr().Is4In6() {
			networks = append(networks, network.Masked())
			continue
		}
		place, err := egress.ParsePlace(entry)
		if err != nil || !place.Named() {
			return nil, nil, fmt.Errorf("allow_private: %q is neither a network nor a place: write a network such as 10.0.0.0/8 or fd00::/8, or HOST:PORT or HOST:PORT/path/prefix", entry)
		}
		places = append(places, place)
	}
	return networks, places, nil
}
