package service

import (
	"errors"
	"fmt"
	"strings"
)

// Owner is a compiled template of Authority.Owner.
type Owner struct {
	before []string // the text before each placeholder
	names  []string // of the placeholders, without braces
	after  string
	signs  string // of the text, which the values have encoded; empty with one placeholder
}

// ParseOwner compiles a template. It must have a placeholder, or everybody would own everything.
func ParseOwner(template string) (*Owner, error) {
	o := new(Owner)
	rest := template
	for {
		text, inner, opens := strings.Cut(rest, "{")
		if strings.Contains(text, "}") {
			return nil, fmt.Errorf("owner %s: there is a } without its {", template)
		}
		if text != "" && EncodeHeader("x"+text+"x", "") != "x"+text+"x" {
			return nil, fmt.Errorf("owner %s: the text between placeholders must be printable ASCII without %%", template)
		}
		if !opens {
			o.after = text
			break
		}
		name, after, closes := strings.Cut(inner, "}")
		if !closes || name == "" || strings.ContainsAny(name, "{ ") {
			return nil, fmt.Errorf("owner %s: a placeholder is not complete, it is as in {http.auth.user.tenant}", template)
		}
		if len(o.names) > 0 && text == "" {
			return nil, fmt.Errorf("owner %s: put a sign between the placeholders, such as a space, or their values run together", template)
		}
		o.before, o.names, rest = append(o.before, text), append(o.names, name), after
	}
	if len(o.names) == 0 {
		return nil, errors.New("owner " + template + " is the same for everybody: name a placeholder, such as owner {http.auth.user.tenant}")
	}
	if len(o.names) > 1 {
		o.signs = strings.Join(o.before, "") + o.after + "%"
	}
	return o, nil
}

// Expand returns the owner, empty where a placeholder is.
func (o *Owner) Expand(value func(placeholder string) string) string {
	var b strings.Builder
	for i, name := range o.names {
		v := value(name)
		if v == "" {
			return ""
		}
		if o.signs != "" {
			v = encodeSigns(v, o.signs)
		}
		if len(o.names) == 1 && o.before[0] == "" && o.after == "" {
			return v
		}
		b.WriteString(o.before[i])
		b.WriteString(v)
	}
	b.WriteString(o.after)
	return b.String()
}

// encodeSigns percent-encodes the given bytes alone.
func encodeSigns(s, signs string) string {
	if !strings.ContainsAny(s, signs) {
		return s
	}
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; strings.IndexByte(signs, c) < 0 {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		}
	}
	return b.String()
}
