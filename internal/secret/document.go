package secret

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// MaxContent is the largest content of a source.
const MaxContent = 64 << 10

const maxLabel = 128

const documentForm = `write {"versions":[{"label":"2026-11","value":"…","active_from":"2026-11-01T00:00:00Z","retire_at":"2026-12-01T00:00:00Z"}]}, newest first`

type document struct {
	Versions []entry `json:"versions"`
}

type entry struct {
	Label      string `json:"label,omitempty"`
	Value      string `json:"value"`
	ActiveFrom string `json:"active_from,omitempty"`
	RetireAt   string `json:"retire_at,omitempty"`
}

// Parse reads the content of a source: the value itself, of which one trailing newline is no part, or
// the versions document, a JSON object whose only member is versions:
//
//	{"versions":[{"label":"2026-11","value":"…","active_from":"RFC3339","retire_at":"RFC3339"}, …]}
//
// newest first. label is that of a value by itself, and of a version in a document of one that has no
// label. Other JSON, such as a JWK, is a value. Text in UTF-16, or with a byte order mark, is refused: an
// editor has written it so. No error holds any of the content.
func Parse(label string, content []byte) ([]Version, error) {
	if len(content) > MaxContent {
		return nil, fmt.Errorf("it has more than %d KiB, a secret is smaller", MaxContent>>10)
	}
	if len(bytes.TrimSpace(content)) == 0 {
		return nil, errors.New("it is empty, write the secret into it")
	}
	if text, marked := utf16Text(content); bytes.HasPrefix(content, []byte(utf8BOM)) || text != "" && (marked || strings.HasPrefix(strings.TrimSpace(text), "{")) {
		return nil, errors.New("it begins with a byte order mark or is in UTF-16: save it in UTF-8 without a mark")
	}
	if !isDocument(content) {
		content = bytes.TrimSuffix(bytes.TrimSuffix(content, []byte("\n")), []byte("\r"))
		return []Version{{Label: label, Value: NewValue(content)}}, nil
	}
	doc, err := decode(content)
	if err != nil {
		return nil, err
	}
	versions := make([]Version, 0, len(doc.Versions))
	for i, e := range doc.Versions {
		if e.Label == "" && len(doc.Versions) == 1 {
			e.Label = label
		}
		v, err := e.version(i)
		if err != nil {
			return nil, err
		}
		for _, newer := range versions {
			if newer.Label == v.Label {
				return nil, fmt.Errorf("two of its versions have the label %.80q, give each its own", v.Label)
			}
			if !newer.ActiveFrom.IsZero() && v.ActiveFrom.After(newer.ActiveFrom) {
				return nil, fmt.Errorf("its version %.80q becomes active after %.80q, which stands before it: put the newest first", v.Label, newer.Label)
			}
		}
		versions = append(versions, v)
	}
	return versions, nil
}

// isDocument says whether content is meant as a document: also one that was cut off while it was written.
func isDocument(content []byte) bool {
	content = bytes.TrimSpace(content)
	if content[0] != '{' {
		return false
	}
	var members map[string]json.RawMessage
	if json.Unmarshal(content, &members) == nil {
		_, ok := members["versions"]
		return ok
	}
	const begin = `{"versions"`
	start := strings.Join(strings.Fields(string(content[:min(len(content), 200)])), "")
	return strings.HasPrefix(start, begin) || len(start) > 1 && strings.HasPrefix(begin, start)
}

func decode(content []byte) (document, error) {
	var doc document
	if !utf8.Valid(content) {
		return doc, errors.New("its text is not UTF-8: save it in UTF-8; a secret that is no text is kept by itself, without a versions document")
	}
	dec := json.NewDecoder(bytes.NewReader(content))
	dec.DisallowUnknownFields()
	err := dec.Decode(&doc)
	if err == nil {
		if _, err = dec.Token(); !errors.Is(err, io.EOF) {
			return doc, errors.New("something follows its versions document, remove it")
		}
		if len(doc.Versions) == 0 {
			return doc, errors.New("its versions document has no version: " + documentForm)
		}
		return doc, nil
	}
	// The decoder's own sentences may hold a part of a value.
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return doc, fmt.Errorf("its versions document is no valid JSON at byte %d: %s", syntax.Offset, documentForm)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return doc, errors.New("its versions document is cut off: " + documentForm)
	}
	return doc, errors.New("its versions document has members that are not known, or of another type: " + documentForm)
}

func (e entry) version(i int) (v Version, err error) {
	nth := fmt.Sprintf("version %d of its versions document", i+1)
	switch {
	case e.Label == "":
		return v, fmt.Errorf("%s has no label, give it one, such as 2026-11", nth)
	case len(e.Label) > maxLabel || strings.ContainsFunc(e.Label, func(r rune) bool { return !unicode.IsPrint(r) }):
		return v, fmt.Errorf("the label of %s must be at most %d printable characters", nth, maxLabel)
	case strings.TrimSpace(e.Value) == "":
		return v, fmt.Errorf("%s has no value, write the secret into it", nth)
	}
	v = Version{Label: e.Label, Value: NewValue([]byte(e.Value))}
	if v.ActiveFrom, err = parseTime(e.ActiveFrom); err != nil {
		return v, fmt.Errorf("active_from of %s %w", nth, err)
	}
	if v.RetireAt, err = parseTime(e.RetireAt); err != nil {
		return v, fmt.Errorf("retire_at of %s %w", nth, err)
	}
	if !v.RetireAt.IsZero() && !v.RetireAt.After(v.ActiveFrom) {
		return v, fmt.Errorf("%s has a retire_at that is not after its active_from, correct one of them", nth)
	}
	return v, nil
}

func parseTime(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil || t.IsZero() {
		return time.Time{}, errors.New("is no time, write it as 2026-11-01T00:00:00Z")
	}
	return t, nil
}

// Format is the versions document of the versions. Parse reads it: what it would refuse is an error.
func Format(versions []Version) ([]byte, error) {
	doc := document{Versions: []entry{}}
	for _, v := range versions {
		if !utf8.Valid(v.Value.Reveal()) {
			return nil, fmt.Errorf("the version %.80q is no text, which a versions document cannot hold: write the new value by hand", v.Label)
		}
		e := entry{Label: v.Label, Value: string(v.Value.Reveal())}
		if !v.ActiveFrom.IsZero() {
			e.ActiveFrom = v.ActiveFrom.UTC().Format(time.RFC3339Nano)
		}
		if !v.RetireAt.IsZero() {
			e.RetireAt = v.RetireAt.UTC().Format(time.RFC3339Nano)
		}
		doc.Versions = append(doc.Versions, e)
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "\t")
	if err := enc.Encode(doc); err != nil {
		return nil, fmt.Errorf("encoding the versions: %w", err)
	}
	if b.Len() > MaxContent {
		return nil, fmt.Errorf("the versions would have more than %d KiB: remove those whose time is over", MaxContent>>10)
	}
	if _, err := Parse("", b.Bytes()); err != nil {
		return nil, fmt.Errorf("the new versions could not be read again: %w", err)
	}
	return b.Bytes(), nil
}
