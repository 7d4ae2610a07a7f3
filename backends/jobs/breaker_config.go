package jobs

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

// The scopes of a breaker: for which pushes one that fails speaks.
const (
	perPath   = "path"   // those of the queue to the same URL, without its query
	perQueue  = "queue"  // those of the queue to the same scheme, host and port
	perOrigin = "origin" // those of all queues with this scope to the same scheme, host and port
	perNone   = "off"    // none, nothing is held back
)

var scopes = []string{perPath, perQueue, perOrigin, perNone}

// maxTrip is the largest Breaker.Trip.
const maxTrip = 1000

// Breaker says when pushes to a target are held back. Whether a target can be reached is judged for its
// scheme, host and port: no connection, no TLS, or 502, 503 or 504 from a proxy in front of it. What the
// app itself answers is judged within Scope.
type Breaker struct {
	// Scope is which pushes fail together: path, those of one queue to one URL; queue, those of one queue to
	// one host and port; origin, those of all queues to it; off, none, so nothing is ever held back.
	// Default: path.
	Scope string `json:"scope,omitempty"`
	// Trip is how many pushes in a row fail before more are held back, 1 to 1000. Default: 5.
	Trip int `json:"trip,omitempty"`
	// Pause is how long they are held back at first; then one finds out how things are. Default: 2s.
	Pause unit.Duration `json:"pause,omitempty"`
	// MaxPause is the most that Pause grows to, by doubling, while the target cannot be reached; while the
	// app answers with failures it is at most 10s. Default: 1m.
	MaxPause unit.Duration `json:"max_pause,omitempty"`
}

// or returns b with what it leaves out taken from def.
func (b Breaker) or(def Breaker) Breaker {
	return Breaker{cmp.Or(b.Scope, def.Scope), cmp.Or(b.Trip, def.Trip), cmp.Or(b.Pause, def.Pause), cmp.Or(b.MaxPause, def.MaxPause)}
}

// withDefaults returns b with what it leaves out filled in.
func (b Breaker) withDefaults() Breaker {
	b = b.or(Breaker{perPath, 5, unit.Duration(2 * time.Second), unit.Duration(time.Minute)})
	b.MaxPause = max(b.MaxPause, b.Pause)
	return b
}

func (b Breaker) validate() error {
	switch {
	case b.Scope != "" && !slices.Contains(scopes, b.Scope):
		return fmt.Errorf("breaker scope must be one of %s, not %q", strings.Join(scopes, ", "), b.Scope)
	case b.Trip < 0 || b.Trip > maxTrip:
		return fmt.Errorf("breaker trip must be from 1 to %d, not %d", maxTrip, b.Trip)
	case b.Pause < 0 || b.Pause.Std() > time.Hour, b.MaxPause < 0 || b.MaxPause.Std() > time.Hour:
		return fmt.Errorf("breaker pause must be above 0 and at most 1h")
	case b.MaxPause > 0 && b.MaxPause < b.Pause:
		return fmt.Errorf("breaker pause %s must not be above its max %s", b.Pause, b.MaxPause)
	}
	return nil
}
