// Package volume keeps account of the free space of file systems: what is there, less what was promised
// to those who are still writing. It asks the file system once a second at most.
package volume

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

// ErrFull says that what was asked for would leave less free space than must stay.
var ErrFull = errors.New("there is too little free space on the disk")

// fresh is how long a measurement is believed.
const fresh = time.Second

// Volume is the file system that a folder is on. All methods may be called at the same time.
type Volume struct {
	dir string
	*account
}

// account is shared by all folders of a file system.
type account struct {
	measure func(dir string) (free, total int64, err error)
	now     func() time.Time

	mu          sync.Mutex
	at          time.Time // of the measurement, zero if there is none
	free, total int64     // as measured
	promised    int64     // reserved and not yet written
	written     int64     // by holders of reservations since the measurement
}

var (
	knownMu sync.Mutex
	known   = map[uint64]*account{} // by device; a process has its data on a few
)

// Of returns the volume that the folder is on. Folders of one file system share its account.
func Of(dir string) (*Volume, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil, fmt.Errorf("%s: the file system does not say what it is", dir)
	}
	device := uint64(st.Dev) //nolint:unconvert // another type on other systems
	knownMu.Lock()
	defer knownMu.Unlock()
	a, ok := known[device]
	if !ok {
		a = &account{measure: statfs, now: time.Now}
		known[device] = a
	}
	return &Volume{dir, a}, nil
}

// New returns a volume of its own, whose space in bytes measure tells.
func New(measure func() (free, total int64, err error)) *Volume {
	return &Volume{account: &account{now: time.Now, measure: func(string) (int64, int64, error) { return measure() }}}
}

func statfs(dir string) (free, total int64, err error) {
	var st syscall.Statfs_t
	if err = syscall.Statfs(dir, &st); err != nil {
		return 0, 0, fmt.Errorf("asking for the free space of %s: %w", dir, err)
	}
	size := int64(st.Bsize) //nolint:unconvert // another type on other systems
	return int64(st.Bavail) * size, int64(st.Blocks) * size, nil
}

// Room returns how many bytes are free and promised to nobody, negative if more is promised than there
// is. It is at most a second old.
func (v *Volume) Room() (int64, error) {
	if err := v.refresh(); err != nil {
		return 0, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.room(), nil
}

// Total returns the size of the volume in bytes.
func (v *Volume) Total() (int64, error) {
	if err := v.refresh(); err != nil {
		return 0, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.total, nil
}

func (a *account) room() int64 { return a.free - a.promised - a.written }

// refresh measures where the last measurement is too old. Who comes meanwhile goes on with what is known.
func (v *Volume) refresh() error {
	v.mu.Lock()
	began := v.now()
	first := v.at.IsZero()
	if !first && began.Sub(v.at) < fresh {
		v.mu.Unlock()
		return nil
	}
	if !first {
		v.at = began
	}
	before := v.written
	v.mu.Unlock()

	free, total, err := v.measure(v.dir)

	v.mu.Lock()
	defer v.mu.Unlock()
	if err != nil {
		if v.at.Equal(began) {
			v.at = began.Add(-fresh) // another folder of the volume may know better
		}
		return err
	}
	v.at, v.free, v.total = began, free, total
	v.written = max(0, v.written-before) // what was written before is in the measurement
	return nil
}

// Reserve promises n bytes to the caller if floor bytes stay free beside them, and is ErrFull if not. The
// caller calls Release when it has written or given up.
func (v *Volume) Reserve(n, floor int64) (*Reservation, error) {
	if err := v.refresh(); err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.room()-n < floor {
		return nil, fullError{room: v.room(), floor: floor}
	}
	v.promised += n
	return &Reservation{v.account, n}, nil
}

// Reservation is space that was promised. A nil one is none.
type Reservation struct {
	account *account
	left    int64
}

// Written says that the holder has written n bytes more. Only one goroutine may use a reservation.
func (r *Reservation) Written(n int64) {
	if r == nil {
		return
	}
	a := r.account
	a.mu.Lock()
	defer a.mu.Unlock()
	a.written += n
	n = min(n, r.left)
	r.left -= n
	a.promised -= n
}

// Release gives back what was not written. It may be called again.
func (r *Reservation) Release() {
	if r == nil {
		return
	}
	a := r.account
	a.mu.Lock()
	defer a.mu.Unlock()
	a.promised -= r.left
	r.left = 0
}

// fullError is ErrFull with its numbers.
type fullError struct{ room, floor int64 }

func (e fullError) Error() string {
	return fmt.Sprintf("%v: %s are free for more, and %s have to stay", ErrFull, unit.Size(max(0, e.room)), unit.Size(e.floor))
}

func (fullError) Unwrap() error { return ErrFull }

// IsFull reports whether err means that a disk has no room: ours by reservation, or the system's by
// ENOSPC or EDQUOT.
func IsFull(err error) bool {
	return errors.Is(err, ErrFull) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
