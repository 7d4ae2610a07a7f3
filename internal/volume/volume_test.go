package volume

import (
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"
)

// disk is a file system whose free space a test sets.
type disk struct {
	free     int64
	err      error
	measured int
	now      time.Time
}

func (d *disk) volume() *Volume {
	return &Volume{"/data", &account{now: func() time.Time { return d.now }, measure: func(string) (int64, int64, error) {
		d.measured++
		return d.free, 1000, d.err
	}}}
}

// TestReserve walks through promises, what is written of them, and measurements.
func TestReserve(t *testing.T) {
	d := &disk{free: 200, now: time.Unix(1000, 0)}
	v := d.volume()
	want := func(when string, want int64) {
		t.Helper()
		if got, err := v.Room(); got != want || err != nil {
			t.Errorf("%s: %d, %v, want %d", when, got, err, want)
		}
	}
	reserve := func(n int64) *Reservation {
		t.Helper()
		r, err := v.Reserve(n, 50)
		if err != nil {
			t.Fatalf("reserving %d: %v", n, err)
		}
		return r
	}
	want("in the beginning", 200)
	a, b := reserve(100), reserve(50)
	want("all but the floor is promised", 50)
	if r, err := v.Reserve(1, 50); !errors.Is(err, ErrFull) || r != nil {
		t.Errorf("one byte more: %v, %v, want ErrFull", r, err)
	}
	a.Written(30)
	want("writing a part changes nothing", 50)
	d.free -= 30
	d.now = d.now.Add(time.Second)
	want("nor does the measurement of it", 50)
	b.Release()
	b.Release()
	want("what is given back is there again, once", 100)
	a.Written(100)
	want("more than was promised counts", 70)
	a.Release()
	want("nothing is left to give back", 70)
	d.free, d.now = 70, d.now.Add(time.Second)
	want("measured", 70)
	if d.measured != 3 {
		t.Errorf("measured %d times, want once a second", d.measured)
	}
}

func TestMeasurementFails(t *testing.T) {
	d := &disk{free: 100, err: syscall.ENOENT, now: time.Unix(1000, 0)}
	v := d.volume()
	if _, err := v.Reserve(1, 0); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("got %v, want the error of the file system", err)
	}
	d.err = nil
	if got, err := v.Room(); got != 100 || err != nil {
		t.Errorf("after it: %d, %v, want 100", got, err)
	}
	d.err, d.now = syscall.EIO, d.now.Add(2*time.Second)
	if _, err := v.Room(); !errors.Is(err, syscall.EIO) {
		t.Errorf("later: %v, want the error", err)
	}
	d.err, d.free = nil, 60
	if got, err := v.Room(); got != 60 || err != nil {
		t.Errorf("measured anew: %d, %v, want 60", got, err)
	}
}

func TestFoldersShareTheAccount(t *testing.T) {
	a, err := Of(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b, err := Of(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	before, err := b.Room()
	if err != nil {
		t.Fatal(err)
	}
	r, err := a.Reserve(before/2, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Release()
	if after, err := b.Room(); err != nil || after > before/2+before/4 {
		t.Errorf("the other folder has room for %d of %d, %v", after, before, err)
	}
}

func TestIsFull(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{errors.New("other"), false},
		{fmt.Errorf("storing: %w", ErrFull), true},
		{fullError{1, 2}, true},
		{fmt.Errorf("writing: %w", syscall.ENOSPC), true},
		{syscall.EDQUOT, true},
		{syscall.EIO, false},
	} {
		if got := IsFull(tt.err); got != tt.want {
			t.Errorf("%v: got %v, want %v", tt.err, got, tt.want)
		}
	}
	var none *Reservation
	none.Written(1)
	none.Release()
}
