package policy

import "time"

// Rate is a policy compiled for counting. All times in it and in a state are whole numbers.
//
// A bucket is the generic cell rate algorithm: its state is one word, the theoretical arrival time in
// nanoseconds since the Unix epoch, by which all that was taken would have flown off. A sliding
// window has two words: the number of the calendar window, and the counts of it and of the one before.
type Rate struct {
	// Sliding says that this is a window and no bucket.
	Sliding bool
	// Interval is the time in which a bucket gains one unit, in nanoseconds; whole microseconds where
	// the bucket takes so long to fill that nanoseconds would not be exact in a float64.
	Interval int64
	// Room is the time that a full bucket holds: Interval times its size.
	Room int64
	// Quota and Window, in milliseconds, are those of a sliding window.
	Quota, Window int64
	// size is how many units fit at once.
	size int64
}

// Compile is the rate of a policy that Check has found right.
func (p Policy) Compile() Rate {
	size := int64(p.Size())
	if p.Sliding {
		return Rate{Sliding: true, Quota: int64(p.Quota), Window: p.Window.Std().Milliseconds(), size: size}
	}
	// Rounded down, a bucket is never slower than it says; below a nanosecond no request can tell.
	interval := max(1, int64(p.Window.Std())/int64(p.Quota))
	if interval > exact/size {
		interval = max(1, interval/1000) * 1000
	}
	return Rate{Interval: interval, Room: interval * size, size: size}
}

// Compile compiles policies in their order.
func Compile(policies []Policy) []Rate {
	rates := make([]Rate, len(policies))
	for i, p := range policies {
		rates[i] = p.Compile()
	}
	return rates
}

// Words is the length of the state of one key.
func Words(rates []Rate) int {
	n := 0
	for i := range rates {
		n += rates[i].words()
	}
	return n
}

func (r *Rate) words() int {
	if r.Sliding {
		return 2
	}
	return 1
}

// Verdict is the answer to one request.
type Verdict struct {
	// Allowed says that every policy has room for the cost.
	Allowed bool
	// Never says that the cost is more than a policy ever allows at once: waiting does not help.
	Never bool
	// Wait is how long it takes until the same request is allowed, if nobody else uses the key. It is
	// 0 for an allowed request and where Never is set.
	Wait time.Duration
	// Answers are the policies' own answers, in their order; those past the last policy are zero.
	Answers [Max]Answer
}

// Answer is what one policy has to say.
type Answer struct {
	// Remaining is how many units are left after this request, rounded down.
	Remaining int64
	// Next is how long it takes until there is one more; 0 if nothing is taken.
	Next time.Duration
	// Wait is how long it takes until there is room for the cost; 0 if there is room now.
	Wait time.Duration
	// Violated says that there is no room for the cost.
	Violated bool
}

// Decide says whether a request of the given cost is allowed at now, in nanoseconds since the Unix
// epoch. All policies must have room; only then is the cost taken from the state, which is of
// Words(rates) length and all zero for a key that has not been seen.
//
// A cost of 0 takes nothing and shows where the key stands.
func Decide(now int64, rates []Rate, state []int64, cost int64) Verdict {
	v := Verdict{Allowed: true}
	w := 0
	for i := range rates {
		r := &rates[i]
		wait := int64(-1)
		if cost <= r.size {
			wait = r.wait(now, state[w:], cost)
		}
		if wait != 0 {
			v.Allowed = false
			v.Answers[i].Violated = true
			if wait < 0 {
				v.Never = true
			} else {
				v.Answers[i].Wait = time.Duration(wait)
				v.Wait = max(v.Wait, v.Answers[i].Wait)
			}
		}
		w += r.words()
	}
	if v.Never {
		v.Wait = 0
	}
	if v.Allowed && cost > 0 {
		Charge(now, rates, state, cost)
	}
	v.Describe(now, rates, state)
	return v
}

// Describe fills in what each policy has left and when there is more.
func (v *Verdict) Describe(now int64, rates []Rate, state []int64) {
	w := 0
	for i := range rates {
		r := &rates[i]
		left := r.left(now, state[w:])
		v.Answers[i].Remaining = left
		if left < r.size {
			v.Answers[i].Next = time.Duration(r.wait(now, state[w:], left+1))
		}
		w += r.words()
	}
}

// Charge takes units from every policy, whether or not there is room: for a cost that is known only
// after the fact. A negative cost gives back. What is owed is at most one full bucket or window.
func Charge(now int64, rates []Rate, state []int64, cost int64) {
	w := 0
	for i := range rates {
		rates[i].charge(now, state[w:], cost)
		w += rates[i].words()
	}
}

// Idle says that the state is as good as that of a key which has not been seen: forgetting it
// changes nothing.
func Idle(now int64, rates []Rate, state []int64) bool { return Used(now, rates, state) == 0 }

// Used is how much of the policy that is nearest to its end is taken, from 0 to 1; above 1 for debts.
func Used(now int64, rates []Rate, state []int64) float64 {
	used, w := 0.0, 0
	for i := range rates {
		r := &rates[i]
		if r.Sliding {
			c := r.counts(now, state[w:])
			used = max(used, (float64(c.prev)*float64(r.Window-c.elapsed)/float64(r.Window)+float64(c.cur))/float64(r.Quota))
		} else if backlog := state[w] - now; backlog > 0 {
			used = max(used, float64(backlog)/float64(r.Room))
		}
		w += r.words()
	}
	return used
}

// backlog is the time that a bucket needs to be full again. It is at most twice the room: a policy
// that was made smaller holds nobody for longer than that.
func (r *Rate) backlog(now int64, state []int64) int64 {
	return min(max(0, state[0]-now), 2*r.Room)
}

// wait is how long it takes until n units fit, 0 if they do now. n is at most the size.
func (r *Rate) wait(now int64, state []int64, n int64) int64 {
	if !r.Sliding {
		return max(0, r.backlog(now, state)+n*r.Interval-r.Room)
	}
	c := r.counts(now, state)
	ms := c.wait(r, n)
	if ms == 0 {
		return 0
	}
	return ms*int64(time.Millisecond) - now%int64(time.Millisecond)
}

// left is how many units fit now.
func (r *Rate) left(now int64, state []int64) int64 {
	if !r.Sliding {
		return max(0, (r.Room-r.backlog(now, state))/r.Interval)
	}
	c := r.counts(now, state)
	return max(0, (r.Quota*r.Window-c.cur*r.Window-c.prev*(r.Window-c.elapsed))/r.Window)
}

func (r *Rate) charge(now int64, state []int64, n int64) {
	if !r.Sliding {
		n = max(-r.size, min(n, r.size))
		state[0] = now + min(max(0, r.backlog(now, state)+n*r.Interval), 2*r.Room)
		return
	}
	c := r.counts(now, state)
	c.cur = min(c.cur+n, 2*r.Quota)
	if c.cur < 0 { // given back in the window after that in which it was taken
		c.prev = max(0, c.prev+c.cur)
		c.cur = 0
	}
	state[0], state[1] = c.index, c.prev<<32|c.cur
}

// counts are those of a sliding window at one time.
type counts struct {
	index     int64 // which calendar window, counted from the Unix epoch
	elapsed   int64 // of it, in milliseconds
	prev, cur int64
}

func (r *Rate) counts(now int64, state []int64) counts {
	ms := now / int64(time.Millisecond)
	c := counts{index: ms / r.Window, elapsed: ms % r.Window}
	switch prev, cur := state[1]>>32, state[1]&(1<<32-1); {
	case state[0] > c.index: // the clock went back
		c.index, c.elapsed, c.prev, c.cur = state[0], 0, prev, cur
	case state[0] == c.index:
		c.prev, c.cur = prev, cur
	case state[0] == c.index-1:
		c.prev = cur
	}
	return c
}

// wait is how many milliseconds it takes until n units fit.
func (c counts) wait(r *Rate, n int64) int64 {
	free := r.Quota - n // units that may be there besides
	if c.prev*(r.Window-c.elapsed) <= (free-c.cur)*r.Window {
		return 0
	}
	if c.cur <= free { // before this window ends
		return r.Window - (free-c.cur)*r.Window/c.prev - c.elapsed
	}
	return r.Window - c.elapsed + max(0, r.Window-free*r.Window/c.cur)
}
