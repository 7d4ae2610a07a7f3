package httpcache_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestStored(t *testing.T) {
	hour := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(http.TimeFormat) }
	type fields = []string
	for name, c := range map[string]struct {
		status   int
		response fields
		request  fields
		want     bool
	}{
		"max-age":                  {200, fields{"Cache-Control", "max-age=60"}, nil, true},
		"s-maxage-wins":            {200, fields{"Cache-Control", "max-age=0, s-maxage=60"}, nil, true},
		"s-maxage-zero":            {200, fields{"Cache-Control", "max-age=60, s-maxage=0"}, nil, false},
		"expires":                  {200, fields{"Expires", hour(time.Hour)}, nil, true},
		"expires-past":             {200, fields{"Expires", hour(-time.Hour)}, nil, false},
		"expires-0":                {200, fields{"Expires", "0"}, nil, false},
		"expires-twice":            {200, fields{"Expires", hour(time.Hour), "Expires", hour(time.Hour)}, nil, false},
		"max-age-beats-expires":    {200, fields{"Cache-Control", "max-age=0", "Expires", hour(time.Hour)}, nil, false},
		"no-freshness":             {200, fields{"Last-Modified", hour(-24 * time.Hour), "Etag", `"x"`}, nil, false},
		"public-alone":             {200, fields{"Cache-Control", "public"}, nil, false},
		"already-old":              {200, fields{"Cache-Control", "max-age=60", "Age", "60"}, nil, false},
		"old-by-date":              {200, fields{"Cache-Control", "max-age=60", "Date", hour(-2 * time.Minute)}, nil, false},
		"no-store":                 {200, fields{"Cache-Control", "max-age=60, no-store"}, nil, false},
		"no-store-other-line":      {200, fields{"Cache-Control", "max-age=60", "Cache-Control", "NO-Store"}, nil, false},
		"no-cache":                 {200, fields{"Cache-Control", "max-age=60, no-cache"}, nil, false},
		"no-cache-field":           {200, fields{"Cache-Control", `max-age=60, no-cache="x-a"`}, nil, false},
		"private":                  {200, fields{"Cache-Control", "s-maxage=60, private"}, nil, false},
		"private-field":            {200, fields{"Cache-Control", `max-age=60, private="set-cookie"`}, nil, false},
		"targeted-no-store":        {200, fields{"Cache-Control", "max-age=60", "CDN-Cache-Control", "no-store"}, nil, false},
		"duplicate-max-age":        {200, fields{"Cache-Control", "max-age=60, max-age=0"}, nil, false},
		"bad-max-age":              {200, fields{"Cache-Control", "max-age='60'"}, nil, false},
		"quoted-max-age":           {200, fields{"Cache-Control", `max-age="60"`}, nil, true},
		"max-age-inside-a-string":  {200, fields{"Cache-Control", `x="a, max-age=60"`}, nil, false},
		"set-cookie":               {200, fields{"Cache-Control", "public, max-age=60", "Set-Cookie", "a=b"}, nil, false},
		"vary-star":                {200, fields{"Cache-Control", "max-age=60", "Vary", "*"}, nil, false},
		"vary-star-in-list":        {200, fields{"Cache-Control", "max-age=60", "Vary", "Accept, *"}, nil, false},
		"vary-star-other-line":     {200, fields{"Cache-Control", "max-age=60", "Vary", "Accept", "Vary", "*"}, nil, false},
		"vary-cookie":              {200, fields{"Cache-Control", "max-age=60", "Vary", "cookie"}, nil, false},
		"vary-authorization":       {200, fields{"Cache-Control", "max-age=60", "Vary", "Authorization"}, nil, false},
		"vary-accept":              {200, fields{"Cache-Control", "max-age=60", "Vary", "Accept"}, nil, true},
		"event-stream":             {200, fields{"Cache-Control", "max-age=60", "Content-Type", "text/event-stream"}, nil, false},
		"content-range":            {200, fields{"Cache-Control", "max-age=60", "Content-Range", "bytes 0-7/8"}, nil, false},
		"trailer":                  {200, fields{"Cache-Control", "max-age=60", "Trailer", "X-Sum"}, nil, false},
		"cors-without-vary":        {200, fields{"Cache-Control", "max-age=60", "Access-Control-Allow-Origin", "https://a"}, fields{"Origin", "https://a"}, false},
		"cors-with-vary":           {200, fields{"Cache-Control", "max-age=60", "Access-Control-Allow-Origin", "https://a", "Vary", "Origin"}, fields{"Origin", "https://a"}, true},
		"bad-tag":                  {200, fields{"Cache-Control", "max-age=60", "Cache-Tag", strings.Repeat("t", 300)}, nil, false},
		"203":                      {203, fields{"Cache-Control", "max-age=60"}, nil, true},
		"204":                      {204, fields{"Cache-Control", "max-age=60"}, nil, true},
		"206":                      {206, fields{"Cache-Control", "max-age=60"}, nil, false},
		"301":                      {301, fields{"Cache-Control", "max-age=60", "Location", "/y"}, nil, true},
		"302":                      {302, fields{"Cache-Control", "max-age=60", "Location", "/y"}, nil, false},
		"304":                      {304, fields{"Cache-Control", "max-age=60"}, nil, false},
		"404":                      {404, fields{"Cache-Control", "max-age=60"}, nil, true},
		"404-without-freshness":    {404, nil, nil, false},
		"400":                      {400, fields{"Cache-Control", "max-age=60"}, nil, false},
		"429":                      {429, fields{"Cache-Control", "max-age=60"}, nil, false},
		"500":                      {500, fields{"Cache-Control", "max-age=60"}, nil, false},
		"501":                      {501, fields{"Cache-Control", "max-age=60"}, nil, true},
		"503":                      {503, fields{"Cache-Control", "max-age=60"}, nil, false},
		"authorization":            {200, fields{"Cache-Control", "public, s-maxage=60"}, fields{"Authorization", "Bearer x"}, false},
		"cookie":                   {200, fields{"Cache-Control", "max-age=60"}, fields{"Cookie", "a=b"}, false},
		"cookie-public":            {200, fields{"Cache-Control", "public, max-age=60"}, fields{"Cookie", "a=b"}, true},
		"api-key":                  {200, fields{"Cache-Control", "max-age=60"}, fields{"X-Api-Key", "k"}, false},
		"request-no-store":         {200, fields{"Cache-Control", "max-age=60"}, fields{"Cache-Control", "no-store"}, false},
		"request-no-cache-ignored": {200, fields{"Cache-Control", "max-age=60"}, fields{"Cache-Control", "no-cache", "Pragma", "no-cache"}, true},
		"range":                    {200, fields{"Cache-Control", "max-age=60"}, fields{"Range", "bytes=0-1"}, false},
		"method-override":          {200, fields{"Cache-Control", "max-age=60"}, fields{"X-HTTP-Method-Override", "DELETE"}, false},
		"original-url":             {200, fields{"Cache-Control", "max-age=60"}, fields{"X-Original-URL", "/admin"}, false},
		"incremental":              {200, fields{"Cache-Control", "max-age=60"}, fields{"Incremental", "?1"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			a := newApp(t, nil)
			a.answer = func(w http.ResponseWriter, _ *http.Request) {
				for i := 0; i+1 < len(c.response); i += 2 {
					w.Header().Add(c.response[i], c.response[i+1])
				}
				w.WriteHeader(c.status)
				if c.status >= 200 && c.status != 204 && c.status != 304 {
					_, _ = fmt.Fprint(w, "answer")
				}
			}
			g := start(t, a, "")
			first := get(g, "http://h/x", c.request...)
			second := get(g, "http://h/x", c.request...)
			if second.hit() != c.want || first.hit() {
				t.Errorf("got Cache-Status %q then %q, want a hit: %t", first.cacheStatus(), second.cacheStatus(), c.want)
			}
			if got, want := a.hits.Load(), map[bool]int64{true: 1, false: 2}[c.want]; got != want {
				t.Errorf("the app was asked %d times, want %d", got, want)
			}
			if second.StatusCode != c.status || second.body != first.body {
				t.Errorf("got %d %q, want %d %q", second.StatusCode, second.body, c.status, first.body)
			}
		})
	}
}
