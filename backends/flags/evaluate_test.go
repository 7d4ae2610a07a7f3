package flags

import (
	"fmt"
	"testing"

	"github.com/twmb/murmur3"
)

// The sums are those of other implementations of MurmurHash3 x86 32-bit over UTF-8 bytes; for Zoë,
// the libraries that hash UTF-16 units say 677830358.
func TestHash(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want uint32
	}{
		{"", 0},
		{"a", 1009084850},
		{"abc", 3017643002},
		{"hello", 613153351},
		{"flag:user", 165261998},
		{"new-checkout:user-123", 2171525887},
		{"new-checkout:user-456", 1749887660},
		{"new-checkout:1", 563728755},
		{"new-checkout:42", 4094389673},
		{"dark-mode:user-123", 425738657},
		{"dark-mode:", 2799144979},
		{"checkout-v2:alice", 4119473564},
		{"checkout-v2:bob", 623772256},
		{"checkout-v2:carol", 4109885233},
		{"checkout-v2:Zoë", 3873246540},
		{"checkout-v2:ユーザー", 495151811},
		{"checkout-v2:😀", 3981678766},
	} {
		if got := murmur3.Sum32([]byte(tt.in)); got != tt.want {
			t.Errorf("sum of %q: got %d, want %d", tt.in, got, tt.want)
		}
	}
	if got := murmur3.SeedSum32(1, []byte("hello")); got != 3142237357 {
		t.Errorf("sum of hello with seed 1: got %d, want 3142237357", got)
	}
}

func TestBucket(t *testing.T) {
	for _, tt := range []struct {
		flag, user string
		want       int
	}{
		{"flag", "user", 98},
		{"new-checkout", "user-123", 87},
		{"new-checkout", "user-456", 60},
		{"new-checkout", "1", 55},
		{"new-checkout", "42", 73},
		{"dark-mode", "user-123", 57},
		{"dark-mode", "", 79},
		{"checkout-v2", "alice", 64},
		{"checkout-v2", "bob", 56},
		{"checkout-v2", "carol", 33},
		{"checkout-v2", "Zoë", 40},
		{"checkout-v2", "ユーザー", 11},
		{"checkout-v2", "😀", 66},
	} {
		if got := Bucket(tt.flag, tt.user); got != tt.want {
			t.Errorf("bucket of %s:%s: got %d, want %d", tt.flag, tt.user, got, tt.want)
		}
	}
	for i, want := range []int{99, 61, 36, 74, 84, 58, 18, 93, 99, 41, 28, 65, 87, 74, 91, 61, 23, 86, 63, 7} {
		if got := Bucket("checkout-v2", fmt.Sprint("user-", i)); got != want {
			t.Errorf("bucket of checkout-v2:user-%d: got %d, want %d", i, got, want)
		}
	}
}

func TestEvaluate(t *testing.T) {
	// new-checkout:user-123 is in bucket 87.
	for _, tt := range []struct {
		name string
		def  Definition
		user string
		want Result
	}{
		{"disabled", Definition{Percentage: 100}, "user-123", Result{false, Disabled}},
		{"disabled-beats-allow", Definition{Percentage: 100, AllowList: []string{"user-123"}}, "user-123", Result{false, Disabled}},
		{"deny-beats-allow", Definition{Enabled: true, Percentage: 100, AllowList: []string{"user-123"}, DenyList: []string{"user-123"}}, "user-123", Result{false, TargetingMatch}},
		{"deny-beats-hundred", Definition{Enabled: true, Percentage: 100, DenyList: []string{"user-123"}}, "user-123", Result{false, TargetingMatch}},
		{"allow-beats-zero", Definition{Enabled: true, AllowList: []string{"user-123"}}, "user-123", Result{true, TargetingMatch}},
		{"lists-are-exact", Definition{Enabled: true, AllowList: []string{"USER-123", "user-12"}}, "user-123", Result{false, Static}},
		{"zero", Definition{Enabled: true}, "user-123", Result{false, Static}},
		{"hundred", Definition{Enabled: true, Percentage: 100}, "user-123", Result{true, Static}},
		{"at-the-bucket", Definition{Enabled: true, Percentage: 87}, "user-123", Result{false, Split}},
		{"above-the-bucket", Definition{Enabled: true, Percentage: 88}, "user-123", Result{true, Split}},
		{"nobody-at-99", Definition{Enabled: true, Percentage: 99}, "", Result{false, Unknown}},
		{"nobody-at-100", Definition{Enabled: true, Percentage: 100}, "", Result{true, Static}},
		{"nobody-disabled", Definition{Percentage: 100}, "", Result{false, Disabled}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := Compile("new-checkout", tt.def).Evaluate(tt.user); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestDistribution(t *testing.T) {
	const users = 100_000
	for _, p := range []int{1, 10, 25, 50, 75, 99} {
		f := Compile("checkout-v2", Definition{Enabled: true, Percentage: p})
		on := 0
		for i := range users {
			if f.Evaluate(fmt.Sprint("user-", i)).On {
				on++
			}
		}
		// Five standard deviations of a fair draw are at most 0.8 points.
		if got := 100 * float64(on) / users; got < float64(p)-0.8 || got > float64(p)+0.8 {
			t.Errorf("at %d percent the flag is on for %.2f percent", p, got)
		}
	}
}

func TestRampOnlyAddsUsers(t *testing.T) {
	for i := range 500 {
		user, was := fmt.Sprint("user-", i), false
		for p := range 101 {
			on := Compile("ramp", Definition{Enabled: true, Percentage: p}).Evaluate(user).On
			if was && !on {
				t.Fatalf("%s was on at %d percent and is off at %d", user, p-1, p)
			}
			was = on
		}
		if !was {
			t.Fatalf("%s is off at 100 percent", user)
		}
	}
}
