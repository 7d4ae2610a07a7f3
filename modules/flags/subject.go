package flags

import (
	"strings"

	"github.com/gatehouse-proxy/gatehouse/modules/internal/once"
)

// identity is the placeholder of the authenticated user.
const identity = "{http.auth.user.id}"

// values is what a request's placeholders stand for.
type values interface {
	GetString(placeholder string) (value string, known bool)
	ReplaceAll(text, unknown string) string
}

// subject says whom a flag is evaluated for: a template compiled once. A template that is one
// placeholder and nothing else, as most are, is looked up without parsing.
type subject struct {
	placeholder string // without its braces; empty for any other template
	template    string
	onces       []once.Part // what a request must not have twice
}

// compileSubject compiles a template; an empty one is {http.auth.user.id}.
func compileSubject(template string) subject {
	if template == "" {
		template = identity
	}
	inner, opens := strings.CutPrefix(template, "{")
	inner, closes := strings.CutSuffix(inner, "}")
	if opens && closes && inner != "" && !strings.ContainsAny(inner, `{}\:`) {
		return subject{placeholder: inner, onces: once.In(template)}
	}
	return subject{template: template, onces: once.In(template)}
}

// of is the subject of one request; placeholders without a value are empty.
func (s subject) of(v values) string {
	if s.placeholder != "" {
		user, _ := v.GetString(s.placeholder)
		return user
	}
	return v.ReplaceAll(s.template, "")
}
