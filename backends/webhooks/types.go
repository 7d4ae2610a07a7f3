package webhooks

import "strings"

// maxType is the longest event type and the longest pattern.
const maxType = 128

// validType says whether s is an event type: words of letters, digits, hyphens and underscores,
// joined by dots, such as order.created.
func validType(s string) bool {
	if len(s) > maxType {
		return false
	}
	for word := range strings.SplitSeq(s, ".") {
		if word == "" || strings.Trim(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != "" {
			return false
		}
	}
	return true
}

// validPattern says whether s is an event type, such a type followed by ".*", or "*".
func validPattern(s string) bool {
	return s == "*" || len(s) <= maxType && validType(strings.TrimSuffix(s, ".*"))
}

// wanted says whether one of the patterns matches the type; no pattern at all matches everything.
// "order.*" matches order.created and order.item.added, and not order.
func wanted(patterns []string, typ string) bool {
	for _, p := range patterns {
		prefix, wild := strings.CutSuffix(p, "*")
		if p == typ || wild && strings.HasPrefix(typ, prefix) {
			return true
		}
	}
	return len(patterns) == 0
}
