package objects

import (
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/volume"
)

// SetIdle sets how long an upload may stand still.
func (s *Endpoint) SetIdle(d time.Duration) { s.idle = d }

// SetFloor sets the space that uploads leave free.
func (d *Disk) SetFloor(n int64) { d.floor = n }

// SetFree gives the disk a volume of its own with so much free space.
func (d *Disk) SetFree(free func() int64) {
	d.volume = volume.New(func() (int64, int64, error) { n := free(); return n, n, nil })
}
