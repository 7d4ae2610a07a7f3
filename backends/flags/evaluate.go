package flags

import (
	"time"

	"github.com/twmb/murmur3"
)

// Reason says why a flag is on or off for a user, in the words of OFREP.
type Reason string

// The reasons.
const (
	Disabled       Reason = "DISABLED"        // the flag is not enabled: off for everybody, lists included
	TargetingMatch Reason = "TARGETING_MATCH" // the user is on one of the lists
	Split          Reason = "SPLIT"           // the user's bucket against the percentage decided
	Static         Reason = "STATIC"          // 0 or 100 percent: the same for every user that no list names
	Unknown        Reason = "UNKNOWN"         // a percentage cannot be decided for nobody in particular
)

// Result is the outcome of one evaluation.
type Result struct {
	On     bool
	Reason Reason
}

// Variant is the result as a word: on or off.
func (r Result) Variant() string {
	if r.On {
		return "on"
	}
	return "off"
}

// Flag is a definition ready to be evaluated. It is immutable.
type Flag struct {
	Key        string
	Definition Definition
	Version    int64
	UpdatedAt  time.Time

	allow, deny map[string]struct{}
}

// Compile prepares a definition for evaluation.
func Compile(key string, d Definition) *Flag {
	return &Flag{Key: key, Definition: d, allow: set(d.AllowList), deny: set(d.DenyList)}
}

func set(users []string) map[string]struct{} {
	m := make(map[string]struct{}, len(users))
	for _, u := range users {
		m[u] = struct{}{}
	}
	return m
}

// Evaluate decides for one user: disabled, then the deny list, then the allow list, then the
// percentage. The empty user, who is nobody in particular, gets the flag at 100 percent only:
// otherwise all anonymous users would share one bucket.
func (f *Flag) Evaluate(user string) Result {
	if !f.Definition.Enabled {
		return Result{false, Disabled}
	}
	if _, denied := f.deny[user]; denied {
		return Result{false, TargetingMatch}
	}
	if _, allowed := f.allow[user]; allowed {
		return Result{true, TargetingMatch}
	}
	switch p := f.Definition.Percentage; {
	case p <= 0:
		return Result{false, Static}
	case p >= 100:
		return Result{true, Static}
	case user == "":
		return Result{false, Unknown}
	default:
		return Result{Bucket(f.Key, user) < p, Split}
	}
}

// Bucket places a user in one of the buckets 0 to 99 of a flag: MurmurHash3 x86 32-bit with seed 0
// of "flag:user", unsigned, modulo 100. A user's bucket never changes, so a growing percentage only
// adds users; and it differs from flag to flag, so the first users are not always the same.
func Bucket(flag, user string) int {
	var stack [256]byte
	b := append(stack[:0], flag...)
	b = append(b, ':')
	b = append(b, user...)
	return int(murmur3.Sum32(b) % 100)
}
