package flags

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

// tags is the value of If-Match or If-None-Match (RFC 9110 section 13.1).
type tags struct {
	given bool
	any   bool // *
	list  []tag
}

type tag struct {
	weak   bool
	opaque string // without the quotes
}

// conditions are the preconditions of a change.
type conditions struct{ match, noneMatch tags }

func readConditions(h http.Header) (c conditions, err error) {
	var ok bool
	if c.match, ok = parseTags(h.Values("If-Match")); !ok {
		return c, problem.New(problem.InvalidRequest, `If-Match must be * or a list of entity tags, such as "3".`)
	}
	if c.noneMatch, ok = parseTags(h.Values("If-None-Match")); !ok {
		return c, problem.New(problem.InvalidRequest, `If-None-Match must be * or a list of entity tags, such as "3".`)
	}
	return c, nil
}

// check compares the preconditions with the state in the same transaction as the change.
func (c conditions) check(version int64, exists bool) error {
	current := strconv.FormatInt(version, 10)
	if c.match.given && (!exists || !c.match.strong(current)) {
		if !exists {
			return problem.New(problem.PreconditionFailed, "If-Match asks for a flag that is there, and this one is not.")
		}
		return problem.New(problem.PreconditionFailed, `The flag has changed, it is at version "%s" now: read it again.`, current)
	}
	if exists && c.noneMatch.weakly(current) {
		return problem.New(problem.PreconditionFailed, `The flag is there already, at version "%s".`, current)
	}
	return nil
}

// codings are the content codings that a gateway's compression appends to a tag, as in "3-gzip". It
// takes them off If-None-Match again, but not off If-Match.
var codings = []string{"gzip", "br", "zstd"}

// strong is the comparison of If-Match, where weak tags never match. The tag of a compressed answer
// names the same version.
func (t tags) strong(opaque string) bool {
	return t.any || slices.ContainsFunc(t.list, func(t tag) bool {
		coding, suffixed := strings.CutPrefix(t.opaque, opaque+"-")
		return !t.weak && (t.opaque == opaque || suffixed && slices.Contains(codings, coding))
	})
}

// weakly is the comparison of If-None-Match.
func (t tags) weakly(opaque string) bool {
	return t.any || slices.ContainsFunc(t.list, func(t tag) bool { return t.opaque == opaque })
}

// parseTags reads the header's lines as one list.
func parseTags(lines []string) (t tags, ok bool) {
	if len(lines) == 0 {
		return tags{}, true
	}
	t.given = true
	rest := strings.Trim(strings.Join(lines, ","), " \t")
	if rest == "*" {
		t.any = true
		return t, true
	}
	for {
		rest = strings.TrimLeft(rest, " \t,")
		if rest == "" {
			return t, len(t.list) > 0
		}
		var one tag
		rest, one.weak = strings.CutPrefix(rest, "W/")
		quoted, isQuoted := strings.CutPrefix(rest, `"`)
		end := strings.IndexByte(quoted, '"')
		if !isQuoted || end < 0 || !tagChars(quoted[:end]) {
			return t, false
		}
		one.opaque, rest = quoted[:end], strings.TrimLeft(quoted[end+1:], " \t")
		if rest != "" && rest[0] != ',' {
			return t, false
		}
		t.list = append(t.list, one)
	}
}

// tagChars is etagc of RFC 9110 section 8.8.3, without the quote.
func tagChars(s string) bool {
	for i := range len(s) {
		if s[i] < 0x21 || s[i] == 0x7f {
			return false
		}
	}
	return true
}
