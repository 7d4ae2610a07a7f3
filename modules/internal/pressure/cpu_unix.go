//go:build unix

package pressure

import (
	"syscall"
	"time"
)

// cpuTime is the processor time that the process has used since its start.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
