package limit

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/gatehouse-proxy/gatehouse/modules/limit/policy"
)

// outcomes are those for which a request is given back what it was charged.
type outcomes struct {
	classes  [6]bool // 5 for 5xx
	statuses []int
	hit      bool
	replay   bool
}

// parseOutcomes reads the words of refund.
func parseOutcomes(words []string) (outcomes, error) {
	var o outcomes
	for _, word := range words {
		switch status, err := strconv.Atoi(word); {
		case word == "cache_hit":
			o.hit = true
		case word == "replay":
			o.replay = true
		case len(word) == 3 && strings.HasSuffix(word, "xx") && word[0] >= '2' && word[0] <= '5':
			o.classes[word[0]-'0'] = true
		case err == nil && status >= 200 && status <= 599:
			o.statuses = append(o.statuses, status)
		default:
			return o, fmt.Errorf("refund: %.40q is no outcome, write a class such as 5xx, a status such as 404, cache_hit or replay", word)
		}
	}
	return o, nil
}

// include says whether a response is one of the outcomes.
func (o *outcomes) include(status int, h http.Header) bool {
	switch {
	case status >= 200 && status < 600 && o.classes[status/100], slices.Contains(o.statuses, status):
		return true
	case o.hit && isHit(h["Cache-Status"]):
		return true
	}
	return o.replay && h.Get("Idempotency-Replayed") == "true"
}

// isHit says whether the cache nearest to the client, the last of Cache-Status (RFC 9211), had the answer.
func isHit(status []string) bool {
	if len(status) == 0 {
		return false
	}
	last := status[len(status)-1]
	last = last[strings.LastIndexByte(last, ',')+1:]
	for param := range strings.SplitSeq(last, ";") {
		if strings.TrimSpace(param) == "hit" {
			return true
		}
	}
	return false
}

// parseCost is the cost that a client or an app names: a whole number. It is 1 for what is none.
func parseCost(s string, def int64) int64 {
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil {
		return def
	}
	return int64(min(n, policy.MaxQuota))
}
