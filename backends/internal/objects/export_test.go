package objects

import "time"

// SetIdle sets how long an upload may stand still.
func (s *Endpoint) SetIdle(d time.Duration) { s.idle = d }

// SetFloor sets the space that uploads leave free.
func (d *Disk) SetFloor(n int64) { d.floor = n }
