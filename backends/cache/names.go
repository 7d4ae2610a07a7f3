package cache

import (
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/httpapi"
	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

const (
	maxKey  = 512
	maxTag  = 256
	minTTL  = time.Millisecond
	maxTTL  = 365 * 24 * time.Hour
	maxList = 1000 // names in one invalidation
	// MaxTags is how many tags one entry may have.
	MaxTags = 64
)

const prefix = "/cache/"

// parseKey reads the key out of an escaped path: all that follows /cache/, unescaped.
func parseKey(escaped string) (string, error) {
	key, err := url.PathUnescape(strings.TrimPrefix(escaped, prefix))
	if err != nil {
		return "", problem.New(problem.InvalidRequest, "The key has a percent sign that no two hexadecimal digits follow.")
	}
	return key, checkKey(key)
}

// scopedKey is the key of an escaped path as it stands in the space of its owner, who is the caller, or for a
// service or an operator whom ?owner= names, or nobody.
func scopedKey(r *http.Request, escaped string) (owner, key string, err error) {
	if owner, err = httpapi.OwnerAsked(r); err != nil {
		return "", "", err
	}
	key, err = parseKey(escaped)
	return owner, service.Scoped(owner, key), err
}

// cleanPath says whether a path reaches us as it was sent: where slashes meet, or where a segment is
// . or .., proxies and routers rewrite it.
func cleanPath(escaped string) bool {
	return path.Clean(escaped) == strings.TrimSuffix(escaped, "/")
}

func checkKey(key string) error {
	switch {
	case key == "" || len(key) > maxKey:
		return problem.New(problem.InvalidRequest, "A key must have 1 to %d bytes, this one has %d.", maxKey, len(key))
	case !utf8.ValidString(key):
		return problem.New(problem.InvalidRequest, "A key must be UTF-8.")
	case strings.ContainsFunc(key, unicode.IsControl):
		return problem.New(problem.InvalidRequest, "A key must not have control characters.")
	}
	return nil
}

// ValidTag says whether s can be a tag: 1 to 256 bytes of UTF-8 without spaces, commas and control
// characters, so that every header that lists tags can hold it.
func ValidTag(s string) bool {
	return s != "" && len(s) <= maxTag && utf8.ValidString(s) &&
		!strings.ContainsFunc(s, func(c rune) bool { return c == ',' || unicode.IsSpace(c) || unicode.IsControl(c) })
}

func checkTags(tags []string, limit int) error {
	if len(tags) > limit {
		return problem.New(problem.InvalidRequest, "At most %d tags can be given at once, not %d.", limit, len(tags))
	}
	for _, tag := range tags {
		if !ValidTag(tag) {
			return problem.New(problem.InvalidRequest, "A tag must have 1 to %d bytes of UTF-8, without spaces, commas and control characters.", maxTag)
		}
	}
	return nil
}

// parseTags joins the tags of the query with those of a Cache-Tag header: a, b.
func parseTags(query, header []string) ([]string, error) {
	tags := append([]string(nil), query...)
	for _, line := range header {
		for tag := range strings.SplitSeq(line, ",") {
			if tag = strings.TrimSpace(tag); tag != "" {
				tags = append(tags, tag)
			}
		}
	}
	return tags, checkTags(tags, MaxTags)
}

// parseTTL reads a time to live such as 60s; an empty one is def.
func parseTTL(s string, def time.Duration) (time.Duration, error) {
	if s == "" {
		return def, nil
	}
	d, err := unit.ParseDuration(s)
	if err != nil {
		return 0, problem.New(problem.InvalidRequest, "ttl must be a number with a unit, such as 500ms, 60s, 10m or 30d.").Because(err)
	}
	return d.Std(), checkTTL(d.Std())
}

func checkTTL(ttl time.Duration) error {
	if ttl < minTTL || ttl > maxTTL {
		return problem.New(problem.InvalidRequest, "ttl must be from 1ms to 365 days.")
	}
	return nil
}

// parseContentType is the media type to keep with a value; none is application/octet-stream.
func parseContentType(s string) (string, error) {
	if s == "" {
		return "application/octet-stream", nil
	}
	if _, _, err := mime.ParseMediaType(s); err != nil || len(s) > 256 {
		return "", problem.New(problem.InvalidRequest, "Content-Type must be a media type of at most 256 bytes.").Because(fmt.Errorf("parsing it: %w", err))
	}
	return s, nil
}
