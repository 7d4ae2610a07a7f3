package signature

import (
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// maxDigits is the longest timestamp: milliseconds have 13 digits until the year 2286.
const maxDigits = 15

// one is the value of a header that must be there exactly once: with two it would be anyone's guess
// which one the sender signed.
func one(h http.Header, name string) (string, error) {
	switch v := h.Values(name); {
	case len(v) == 0 || len(v) == 1 && v[0] == "":
		return "", fail(ErrMissing, "The header %s is missing.", name)
	case len(v) > 1:
		return "", fail(ErrMalformed, "The header %s is there more than once.", name)
	default:
		return v[0], nil
	}
}

// list is a header that may be there several times, as one text.
func list(h http.Header, name, separator string) (string, error) {
	s := strings.Join(h.Values(name), separator)
	if s == "" {
		return "", fail(ErrMissing, "The header %s is missing.", name)
	}
	return s, nil
}

// instant reads a timestamp of digits alone, in the given unit.
func instant(s, where string, unit time.Duration) (time.Time, error) {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return time.Time{}, fail(ErrMalformed, "The timestamp in %s is not a number.", where)
		}
	}
	if s == "" || len(s) > maxDigits {
		return time.Time{}, fail(ErrMalformed, "The timestamp in %s is not a point in time.", where)
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return time.Time{}, fail(ErrMalformed, "The timestamp in %s is not a point in time.", where)
	}
	if unit == time.Millisecond {
		return time.UnixMilli(n), nil
	}
	return time.Unix(n, 0), nil
}

// hexList reads "sha256=<hex>, sha256=<hex>". Entries with another prefix are ignored.
func hexList(s, where string) ([][]byte, error) {
	var macs [][]byte
	for entry := range strings.SplitSeq(s, ",") {
		digits, ok := strings.CutPrefix(strings.TrimSpace(entry), "sha256=")
		if !ok {
			continue
		}
		if m, err := hex.DecodeString(digits); err == nil {
			macs = append(macs, m)
		}
	}
	if len(macs) == 0 {
		return nil, fail(ErrMalformed, "The header %s holds no signature of the form sha256=<hex>.", where)
	}
	return macs, nil
}

func writeHexList(h http.Header, name string, macs [][]byte) {
	entries := make([]string, len(macs))
	for i, m := range macs {
		entries[i] = "sha256=" + hex.EncodeToString(m)
	}
	h.Set(name, strings.Join(entries, ","))
}
