package secret

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	at := func(s string) time.Time {
		if s == "" {
			return time.Time{}
		}
		v, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	type want struct{ label, value, from, until string }
	for name, tc := range map[string]struct {
		content string
		want    []want
	}{
		"raw":                    {"hunter2", []want{{"l", "hunter2", "", ""}}},
		"one-newline-is-no-part": {"one\ntwo\n\r\n", []want{{"l", "one\ntwo\n", "", ""}}},
		"raw-is-any-bytes":       {"\xff\x00", []want{{"l", "\xff\x00", "", ""}}},
		"other-json-is-a-value":  {`{"kty":"oct","k":"AA"}`, []want{{"l", `{"kty":"oct","k":"AA"}`, "", ""}}},
		"a-brace-is-a-value":     {`{9s8d`, []want{{"l", `{9s8d`, "", ""}}},
		"document": {
			` {"versions":[{"label":"b","value":"2","active_from":"2026-11-01T00:00:00Z"},{"label":"a","value":"1\n","retire_at":"2026-12-01T00:00:00+01:00"}]}` + "\n",
			[]want{{"b", "2", "2026-11-01T00:00:00Z", ""}, {"a", "1\n", "", "2026-11-30T23:00:00Z"}},
		},
		"one-without-a-label": {`{"versions":[{"value":"2"}]}`, []want{{"l", "2", "", ""}}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Parse("l", []byte(tc.content))
			if err != nil || len(got) != len(tc.want) {
				t.Fatalf("got %d versions, %v", len(got), err)
			}
			for i, w := range tc.want {
				v := got[i]
				if v.Label != w.label || string(v.Value.Reveal()) != w.value || !v.ActiveFrom.Equal(at(w.from)) || !v.RetireAt.Equal(at(w.until)) {
					t.Errorf("version %d is %s %q from %s until %s, want %v", i, v.Label, v.Value.Reveal(), v.ActiveFrom, v.RetireAt, w)
				}
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	for name, tc := range map[string]struct{ content, want string }{
		"empty":             {"", "it is empty, write the secret"},
		"spaces":            {" \n\t ", "it is empty"},
		"large":             {strings.Repeat("sesame", MaxContent/6+1), "more than 64 KiB"},
		"no-version":        {`{"versions":[]}`, "has no version: write {"},
		"null":              {`{"versions":null}`, "has no version"},
		"a-label-twice":     {`{"versions":[{"label":"a","value":"sesame"},{"label":"a","value":"sesame2"}]}`, `the label "a", give each`},
		"no-label":          {`{"versions":[{"value":"sesame"},{"label":"a","value":"x"}]}`, "version 1 of its versions document has no label"},
		"long-label":        {`{"versions":[{"label":"` + strings.Repeat("a", 129) + `","value":"sesame"}]}`, "at most 128"},
		"label-of-controls": {`{"versions":[{"label":"a\nb","value":"sesame"}]}`, "printable"},
		"no-value":          {`{"versions":[{"label":"a","value":" \n"}]}`, "version 1 of its versions document has no value"},
		"no-time":           {`{"versions":[{"label":"a","value":"x","active_from":"sesame"}]}`, "active_from of version 1 of its versions document is no time, write it as"},
		"year-one":          {`{"versions":[{"label":"a","value":"x","retire_at":"0001-01-01T00:00:00Z"}]}`, "retire_at of version 1 of its versions document is no time"},
		"retired-before":    {`{"versions":[{"label":"a","value":"x","active_from":"2026-11-01T00:00:00Z","retire_at":"2026-10-01T00:00:00Z"}]}`, "not after its active_from"},
		"oldest-first":      {`{"versions":[{"label":"a","value":"x","active_from":"2026-10-01T00:00:00Z"},{"label":"b","value":"y","active_from":"2026-11-01T00:00:00Z"}]}`, "put the newest first"},
		"unknown-member":    {`{"versions":[{"label":"a","value":"x","sesame":1}]}`, "members that are not known"},
		"unknown-top":       {`{"versions":[{"label":"a","value":"x"}],"sesame":1}`, "members that are not known"},
		"number":            {`{"versions":[{"label":"a","value":1234567}]}`, "of another type"},
		"no-list":           {`{"versions":"sesame"}`, "of another type"},
		"cut-off":           {`{"versions":[{"label":"a","value":"sesa`, "is cut off"},
		"cut-off-early":     {`{"vers`, "is cut off"},
		"no-json":           {`{"versions":[{"label":"a","value":"x" sesame}]}`, "no valid JSON at byte 39"},
		"something-more":    {`{"versions":[{"label":"a","value":"x"}]} sesame`, "something follows"},
		"utf-8-mark":        {"\xef\xbb\xbf" + `{"versions":[{"label":"a","value":"sesame"}]}`, "byte order mark or is in UTF-16: save it in UTF-8"},
		"mark-of-a-value":   {"\xef\xbb\xbfsesame", "byte order mark"},
		"utf-16-mark":       {utf16Of(`{"versions":[{"label":"a","value":"sesame"}]}`, binary.LittleEndian, true), "is in UTF-16"},
		"utf-16":            {utf16Of(" {\"versions\":[{\"label\":\"a\",\"value\":\"sesame\"}]}\r\n", binary.BigEndian, false), "is in UTF-16"},
		"utf-16-value":      {utf16Of("sesame", binary.BigEndian, true), "is in UTF-16"},
		"no-utf-8":          {"{\"versions\":[{\"label\":\"a\",\"value\":\"x\xff\"}]}", "is not UTF-8"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("l", []byte(tc.content))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want %q", err, tc.want)
			}
			for _, leak := range []string{"sesame", "1234567"} {
				if strings.Contains(err.Error(), leak) {
					t.Errorf("the error holds the content: %v", err)
				}
			}
		})
	}
}

func TestFormatIsReadBack(t *testing.T) {
	a, b := version("a"), version("b <&>")
	a.ActiveFrom, b.RetireAt = start, start.Add(time.Hour)
	content, err := Format([]Version{a, b})
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse("l", content)
	if err != nil || len(got) != 2 || !same(got[0], a) || !same(got[1], b) {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err = Format([]Version{{Label: "a", Value: NewValue([]byte("sesame\xff"))}}); err == nil || strings.Contains(err.Error(), "sesame") {
		t.Errorf("bytes that are no text: %v", err)
	}
	for want, bad := range map[string]Version{
		"would have more than 64 KiB": {Label: "a", Value: NewValue(bytes.Repeat([]byte("s"), MaxContent))},
		"could not be read again":     {Label: strings.Repeat("a", maxLabel+1), Value: NewValue([]byte("sesame"))},
	} {
		if _, err = Format([]Version{bad}); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "sesame") {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("hunter2\n"))
	f.Add([]byte(`{"versions":[{"label":"b","value":"2","active_from":"2026-11-01T00:00:00Z"},{"label":"a","value":"1"}]}`))
	f.Add([]byte(`{"versions":[{"value":"2"}]} x`))
	f.Add([]byte(`{"vers`))
	f.Fuzz(func(t *testing.T, content []byte) {
		versions, err := Parse("l", content)
		if err != nil {
			if len(versions) != 0 {
				t.Error("versions beside an error")
			}
			return
		}
		if len(versions) == 0 {
			t.Fatal("neither versions nor an error")
		}
		for _, v := range versions {
			if v.Label == "" || v.Value.Empty() {
				t.Errorf("a version without label or value in %q", content)
			}
		}
		again, err := Format(versions)
		if err != nil { // no text, or too large
			if strings.Contains(err.Error(), "read again") {
				t.Errorf("%q: %v", content, err)
			}
			return
		}
		back, err := Parse("x", again)
		if err != nil || len(back) != len(versions) || !bytes.Equal(back[0].Value.Reveal(), versions[0].Value.Reveal()) {
			t.Errorf("%q is written as %q, which is read as %v, %v", content, again, back, err)
		}
	})
}
