package shared

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/integration/await"
	"github.com/gatehouse-proxy/gatehouse/integration/redistest"
	"github.com/gatehouse-proxy/gatehouse/modules/limit/policy"
)

// decide is what a caller does.
func decide(ctx context.Context, l *Leases, id ID, rates []policy.Rate, cost int64) (policy.Verdict, error) {
	local := uint64(id[0])<<56 | uint64(id[1])<<8 | uint64(id[2])
	now := time.Now().UnixNano()
	if v, ok := l.Take(now, local, rates, cost); ok {
		return v, nil
	}
	return l.Acquire(ctx, now, local, id, rates, cost)
}

func localOf(id ID) uint64 { return uint64(id[0])<<56 | uint64(id[1])<<8 | uint64(id[2]) }

func TestHotKeysNeedFewRoundTrips(t *testing.T) {
	leased(t, []string{"100000/1s burst 10000"}, 1, func(t *testing.T, m *memory, all []*Leases) {
		waited := 0
		for i := range 50_000 { // 10,000 a second
			began := time.Now()
			v, err := decide(t.Context(), all[0], idOf("hot"), m.rates, 1)
			if err != nil || !v.Allowed {
				t.Fatalf("request %d: %+v, %v", i, v, err)
			}
			if i > 10_000 && time.Since(began) > 0 {
				waited++
			}
			pass(100 * time.Microsecond)
		}
		if m.trips > 500 || waited > 0 {
			t.Errorf("%d round trips for 50,000 requests, and %d waited for one after the first second", m.trips, waited)
		}
	})
}

func TestColdKeysLeaseNothing(t *testing.T) {
	leased(t, []string{"1000/1m"}, 1, func(t *testing.T, m *memory, all []*Leases) {
		for i := range 20 {
			v, err := decide(t.Context(), all[0], idOf("cold"), m.rates, 1)
			if err != nil || !v.Allowed {
				t.Fatalf("got %+v, %v", v, err)
			}
			if got := m.left(idOf("cold")); got < 999 {
				t.Fatalf("request %d: %d are left", i, got)
			}
			pass(3 * time.Second)
		}
	})
}

func TestUnusedTokensAreGivenBack(t *testing.T) {
	for name, close := range map[string]bool{"idle": false, "close": true} {
		t.Run(name, func(t *testing.T) {
			leased(t, []string{"1000/24h"}, 1, func(t *testing.T, m *memory, all []*Leases) {
				id := idOf("a")
				used := int64(0)
				for range 50 {
					if v, err := decide(t.Context(), all[0], id, m.rates, 1); err != nil || !v.Allowed {
						t.Fatalf("got %+v, %v", v, err)
					}
					used++
					pass(time.Millisecond)
				}
				if m.left(id) >= 1000-used {
					t.Fatal("nothing was leased")
				}
				if close {
					all[0].Close()
				} else {
					pass(2 * time.Second)
				}
				if got := m.left(id); got != 1000-used {
					t.Errorf("%d are left, want %d: %+v", got, 1000-used, all[0].Stats())
				}
				if s := all[0].Stats(); s.Keys != 0 || s.Returned == 0 || s.Lost != 0 {
					t.Errorf("got %+v", s)
				}
				if v, err := decide(t.Context(), all[0], id, m.rates, 1); err != nil || !v.Allowed || v.Answers[0].Remaining != 1000-used-1 {
					t.Errorf("a later request: %+v, %v", v, err)
				}
			})
		})
	}
}

func TestRefusalsAreRemembered(t *testing.T) {
	leased(t, []string{"10/1h"}, 1, func(t *testing.T, m *memory, all []*Leases) {
		id := idOf("a")
		for range 10 {
			if v, err := decide(t.Context(), all[0], id, m.rates, 1); err != nil || !v.Allowed {
				t.Fatalf("got %+v, %v", v, err)
			}
		}
		trips, began := m.trips, time.Now()
		for range 10_000 {
			v, err := decide(t.Context(), all[0], id, m.rates, 1)
			if err != nil || v.Allowed || !v.Answers[0].Violated || v.Wait > 6*time.Minute || v.Wait < 5*time.Minute {
				t.Fatalf("got %+v, %v", v, err)
			}
			pass(time.Millisecond)
		}
		if got := m.trips - trips; got > int(time.Since(began)/trust)+2 {
			t.Errorf("%d round trips for refusals in %s", got, time.Since(began))
		}
		pass(6 * time.Minute)
		if v, err := decide(t.Context(), all[0], id, m.rates, 1); err != nil || !v.Allowed {
			t.Errorf("when there is room again: %+v, %v", v, err)
		}
	})
}

func TestACostBeyondTheSizeIsRefusedHere(t *testing.T) {
	leased(t, []string{"10/1h"}, 1, func(t *testing.T, m *memory, all []*Leases) {
		for range 5 {
			if v, err := decide(t.Context(), all[0], idOf("a"), m.rates, 11); err != nil || v.Allowed || !v.Never {
				t.Fatalf("got %+v, %v", v, err)
			}
		}
		if m.trips > 1 {
			t.Errorf("%d round trips", m.trips)
		}
	})
}

func TestRequestsOfOneKeyWaitForOneAnswer(t *testing.T) {
	leased(t, []string{"1000/1h"}, 1, func(t *testing.T, m *memory, all []*Leases) {
		var wg sync.WaitGroup
		var allowed atomic.Int64
		for range 200 {
			wg.Go(func() {
				if v, err := decide(t.Context(), all[0], idOf("a"), m.rates, 1); err == nil && v.Allowed {
					allowed.Add(1)
				}
			})
		}
		wg.Wait()
		if m.trips > 3 || allowed.Load() != 200 {
			t.Errorf("%d allowed in %d round trips", allowed.Load(), m.trips)
		}
	})
}

func TestLeasesWhileRedisIsAway(t *testing.T) {
	leased(t, []string{"100000/1s"}, 1, func(t *testing.T, m *memory, all []*Leases) {
		id := idOf("a")
		for range 1000 {
			if _, err := decide(t.Context(), all[0], id, m.rates, 1); err != nil {
				t.Fatal(err)
			}
			pass(time.Millisecond)
		}
		m.mode.Store(freezes)
		pass(2 * time.Second) // what was held is lost when it should be given back
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				began := time.Now()
				_, err := decide(t.Context(), all[0], id, m.rates, 1)
				if took := time.Since(began); took > Deadline || !errors.Is(err, ErrDown) {
					t.Errorf("after %s: %v", took, err)
				}
			})
		}
		wg.Wait()
		if s := all[0].Stats(); s.Lost == 0 || s.Returned != 0 {
			t.Errorf("got %+v", s)
		}
		m.mode.Store(answers)
		pass(3 * time.Second)
		if v, err := decide(t.Context(), all[0], id, m.rates, 1); err != nil || !v.Allowed {
			t.Errorf("afterwards: %+v, %v", v, err)
		}
	})
}

func TestAnAskersEndIsNotThatOfTheOthers(t *testing.T) {
	leased(t, []string{"1000/1h"}, 1, func(t *testing.T, m *memory, all []*Leases) {
		ctx, cancel := context.WithTimeout(t.Context(), roundTrip/2)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := decide(ctx, all[0], idOf("a"), m.rates, 1); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
		})
		for range 10 {
			wg.Go(func() {
				pass(roundTrip / 4)
				if v, err := decide(t.Context(), all[0], idOf("a"), m.rates, 1); err != nil || !v.Allowed {
					t.Errorf("got %+v, %v", v, err)
				}
			})
		}
		wg.Wait()
	})
}

func TestChargesAndRefundsOfALeasedKey(t *testing.T) {
	leased(t, []string{"1000/24h"}, 1, func(t *testing.T, m *memory, all []*Leases) {
		id, l := idOf("a"), all[0]
		for range 10 {
			if v, err := decide(t.Context(), l, id, m.rates, 1); err != nil || !v.Allowed {
				t.Fatalf("got %+v, %v", v, err)
			}
			pass(time.Millisecond)
		}
		l.Charge(time.Now().UnixNano(), localOf(id), id, m.rates, 100)
		l.Charge(time.Now().UnixNano(), localOf(id), id, m.rates, -30)
		l.Charge(time.Now().UnixNano(), localOf(idOf("b")), idOf("b"), m.rates, 5)
		if v, _ := decide(t.Context(), l, id, m.rates, 1); v.Answers[0].Remaining != 1000-10-100+30-1 {
			t.Errorf("got %+v", v)
		}
		pass(2 * time.Second)
		if got, want := m.left(id), int64(1000-10-100+30-1); got != want {
			t.Errorf("%d are left, want %d", got, want)
		}
		if got := m.left(idOf("b")); got != 995 {
			t.Errorf("%d are left of the other key", got)
		}
	})
}

func TestKeysHeldAreBounded(t *testing.T) {
	leased(t, []string{"10/1h"}, 1, func(t *testing.T, m *memory, all []*Leases) {
		var wg sync.WaitGroup
		for g := range 50 {
			wg.Go(func() {
				for i := range MaxLeases / 50 * 2 {
					id := idOf(fmt.Sprint(g, i))
					if v, err := decide(t.Context(), all[0], id, m.rates, 1); err != nil || !v.Allowed {
						t.Errorf("got %+v, %v", v, err)
						return
					}
				}
			})
		}
		wg.Wait()
		if s := all[0].Stats(); s.Keys > MaxLeases {
			t.Errorf("got %+v", s)
		}
		pass(3 * time.Second)
		if s := all[0].Stats(); s.Keys != 0 {
			t.Errorf("%d keys are held though nobody uses them", s.Keys)
		}
	})
}

// TestLeasesStayWithinTheirBound counts in windows that begin at any time, with instances that come,
// rest and crash.
func TestLeasesStayWithinTheirBound(t *testing.T) {
	for _, specs := range [][]string{{"1000/1s burst 500"}, {"1000/1s burst 500", "3000/10s sliding"}, {"50/1s"}, {"333/1s burst 2000"}} {
		t.Run(fmt.Sprint(specs), func(t *testing.T) {
			const instances = 4
			leased(t, specs, instances, func(t *testing.T, m *memory, all []*Leases) {
				id := idOf("hot")
				began := time.Now()
				const span = 20 * time.Second
				allowed := make([]atomic.Int64, span/(10*time.Millisecond)+1) // in each 10 ms
				var wg sync.WaitGroup
				for n, l := range all {
					for range 3 {
						wg.Go(func() {
							for time.Since(began) < span {
								v, err := decide(t.Context(), l, id, m.rates, 1)
								if err != nil {
									t.Error(err)
									return
								}
								if at := time.Since(began); v.Allowed && at < span {
									allowed[at/(10*time.Millisecond)].Add(1)
								}
								pause := time.Millisecond
								if second := int(time.Since(began) / time.Second); (second+n)%4 == 0 {
									pause = 300 * time.Millisecond
								}
								pass(pause)
							}
						})
					}
				}
				wg.Wait()
				size := policySize(m.rates)
				slack := max(size/share, instances)
				var total int64
				for from := range allowed {
					var sum int64
					for to := from; to < len(allowed); to++ {
						sum += allowed[to].Load()
						took := time.Duration(to-from+1) * 10 * time.Millisecond
						most := slack
						if r := m.rates[0]; !r.Sliding {
							most += size0(r) + int64(took)/r.Interval + 1
						}
						if sum > most {
							t.Fatalf("%d were allowed in %s, the bound is %d", sum, took, most)
						}
					}
					total += allowed[from].Load()
				}
				if len(m.rates) > 1 {
					// 3000 in any 10 s and what the estimate of a sliding window may be off at its edges.
					var sum int64
					for i := range allowed {
						sum += allowed[i].Load()
						if i >= 1000 {
							sum -= allowed[i-1000].Load()
						}
						if sum > 3000*3/2+slack {
							t.Fatalf("%d were allowed in 10 s", sum)
						}
					}
				}
				t.Logf("%d allowed in %d round trips", total, m.trips)
			})
		})
	}
}

func size0(r policy.Rate) int64 { return r.Room / r.Interval }

// instance is a link and its leases, as another process has them.
func instance(t testing.TB, s *redistest.Server, zone string) *Leases {
	t.Helper()
	leases := NewLeases(patientLink(t, open(t, s.URL())), zone)
	t.Cleanup(leases.Close)
	return leases
}

// known waits until the instances know that there are n of them.
func known(t testing.TB, n int, all ...*Leases) {
	t.Helper()
	for _, l := range all {
		l.link.begin()
	}
	await.For(t, "the instances to know each other", func() error {
		for _, l := range all {
			if got := l.link.live.Load(); got != int64(n) {
				return fmt.Errorf("an instance knows of %d", got)
			}
		}
		return nil
	})
}

func TestLeasesOverARealRedis(t *testing.T) {
	s := redistest.Start(t)
	rates := compile(t, "2000/1s burst 1000")
	var all []*Leases
	for range 3 {
		all = append(all, instance(t, s, "bound"))
	}
	known(t, 3, all...)
	var allowed, asked atomic.Int64
	began := time.Now()
	var wg sync.WaitGroup
	for _, l := range all {
		for range 4 {
			wg.Go(func() {
				tick := time.NewTicker(time.Millisecond)
				defer tick.Stop()
				for time.Since(began) < 2*time.Second {
					for range 10 {
						v, err := decide(t.Context(), l, idOf("hot"), rates, 1)
						if err != nil {
							t.Error(err)
							return
						}
						asked.Add(1)
						if v.Allowed {
							allowed.Add(1)
						}
					}
					<-tick.C
				}
			})
		}
	}
	wg.Wait()
	took := time.Since(began)
	trips := uint64(0)
	for _, l := range all {
		stats := l.Stats()
		trips += stats.Asked + stats.Prefetched
	}
	limit := 1000 + int64(2000*took.Seconds()) + 1
	t.Logf("%d of %d allowed in %s, the limit is %d; %d round trips", allowed.Load(), asked.Load(), took, limit, trips)
	if got, most := allowed.Load(), limit+1000/share; got > most {
		t.Errorf("%d requests were allowed in %s, the bound is %d", got, took, most)
	}
}

func BenchmarkLeasedHotKey(b *testing.B) {
	s := redistest.Start(b)
	rates := compile(b, "1000000000/1s")
	l := instance(b, s, "bench")
	known(b, 1, l)
	id := idOf("hot")
	b.ReportAllocs()
	now, n := time.Now().UnixNano(), 0
	for b.Loop() {
		n++
		if now += 100; n%1000 == 0 {
			now = time.Now().UnixNano()
		}
		if _, ok := l.Take(now, 7, rates, 1); !ok {
			if _, err := l.Acquire(b.Context(), now, 7, id, rates, 1); err != nil {
				b.Fatal(err)
			}
		}
	}
	stats := l.Stats()
	b.ReportMetric(float64(stats.Asked+stats.Prefetched)/float64(n)*1e6, "trips/M")
}
