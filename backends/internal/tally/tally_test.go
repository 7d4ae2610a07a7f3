package tally

import (
	"errors"
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

func TestTallies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts, counts := New[string](), 0
		eight := func() (int, error) {
			counts++
			return 8, nil
		}
		for i, want := range []bool{false, false, true} {
			if over, err := ts.Take("a", 1, 10, eight); over != want || err != nil || counts != 1 {
				t.Errorf("%d: got over %v, %v after %d counts", i, over, err, counts)
			}
		}
		ts.Add("a", -1)
		if over, _ := ts.Take("a", 2, 10, eight); !over {
			t.Error("took two for one place")
		}
		if over, _ := ts.Take("b", 2, 10, eight); over || counts != 2 {
			t.Errorf("another's are over %v after %d counts", over, counts)
		}
		ts.Set("a", 10)
		if over, _ := ts.Take("a", 1, 10, eight); !over {
			t.Error("took one for no place")
		}
		<-time.After(Fresh + time.Millisecond)
		if over, _ := ts.Take("a", 1, 10, eight); over || counts != 3 {
			t.Error("believes an old number")
		}
		if _, err := ts.Take("c", 1, 10, func() (int, error) { return 0, errors.New("no") }); err == nil {
			t.Error("got no error although nothing was counted")
		}
		for i := range 3 * remembered {
			ts.Set(strconv.Itoa(i), 1)
		}
		if len(ts.known) > remembered {
			t.Errorf("remembers %d numbers", len(ts.known))
		}
	})
}
