package shared

import (
	_ "embed" // for the scripts
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/gatehouse-proxy/gatehouse/modules/limit/policy"
)

//go:embed take.lua
var takeScript string

const prefix = "gatehouse:limit:"

// ID identifies a key of a client within a zone: the first bytes of a SHA-256 over both and over the
// kinds of the policies, made by the caller. No key of a client stands in Redis.
type ID [16]byte

// Key is the name in Redis of what is kept for an ID.
func Key(zone string, id ID) string {
	b := make([]byte, 0, len(prefix)+len(zone)+1+2*len(id))
	b = append(append(append(b, prefix...), zone...), ':')
	return string(hex.AppendEncode(b, id[:]))
}

// Where the arguments of a decision stand; see take.lua.
const (
	argHash = 1 + iota // or the script itself
	argKeys
	argKey
	argNow
	argVerb
	argCost
	argMost
	argRates
)

// appendArgs are the words of an EVALSHA of take.lua, in args' memory.
func appendArgs(args []any, hash, key, verb string, cost, most int64, rates []policy.Rate) []any {
	args = append(args[:0], "evalsha", hash, 1, key, "", verb, cost, most)
	for i := range rates {
		r := &rates[i]
		switch {
		case r.Sliding:
			args = append(args, "w", r.Window, r.Quota)
		case r.Interval%1000 == 0:
			args = append(args, "u", r.Interval/1000, r.Room/r.Interval)
		default:
			args = append(args, "n", r.Interval, r.Room/r.Interval)
		}
	}
	return args
}

// reply is what take.lua says: the time in ns, and the state before the charge in policy's words.
type reply struct {
	granted int64
	now     int64
	state   [2 * policy.Max]int64
}

var errReply = errors.New("the reply of the script is not understood")

// parse reads a reply for the rates that were asked for.
func (r *reply) parse(s string, rates []policy.Rate) error {
	bad := func() error { return fmt.Errorf("%w: %.100q", errReply, s) }
	rest := s
	next := func() (int64, bool) {
		var word string
		word, rest, _ = strings.Cut(rest, " ")
		n, err := strconv.ParseInt(word, 10, 64)
		return n, err == nil
	}
	var ok bool
	if r.granted, ok = next(); !ok {
		return bad()
	}
	if r.now, ok = next(); !ok || r.now < 0 || r.now > maxMicros {
		return bad()
	}
	r.now *= 1000
	w := 0
	for i := range rates {
		if rates[i].Sliding {
			var word string
			word, rest, _ = strings.Cut(rest, " ")
			index, counts, _ := strings.Cut(word, ":")
			prev, cur, _ := strings.Cut(counts, ":")
			at, err1 := strconv.ParseInt(index, 10, 64)
			p, err2 := strconv.ParseUint(prev, 10, 31)
			c, err3 := strconv.ParseUint(cur, 10, 32)
			if err1 != nil || err2 != nil || err3 != nil {
				return bad()
			}
			r.state[w], r.state[w+1] = at, int64(p<<32|c)
			w += 2
			continue
		}
		backlog, ok := next()
		if !ok {
			return bad()
		}
		if rates[i].Interval%1000 == 0 {
			backlog *= 1000
		}
		r.state[w] = r.now + backlog
		w++
	}
	return nil
}

// maxMicros is the last time that nanoseconds since the epoch can say.
const maxMicros = 1<<63/1000 - 1
