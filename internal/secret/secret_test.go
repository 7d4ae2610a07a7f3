package secret

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestValueNeverShows(t *testing.T) {
	v := NewValue([]byte("hunter2"))
	var logged bytes.Buffer
	slog.New(slog.NewTextHandler(&logged, nil)).Info("m", "v", v, "p", &v, "set", NewSet("s", Version{"l", v}))
	js, err := json.Marshal(map[string]any{"v": v, "p": &v, "set": NewSet("s", Version{"l", v})})
	if err != nil {
		t.Fatal(err)
	}
	shown := logged.String() + string(js)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		shown += fmt.Sprintf(verb, v) + fmt.Sprintf(verb, &v) + fmt.Sprintf(verb, Version{"l", v}) + fmt.Sprintf(verb, []Value{v})
	}
	for _, leak := range []string{"hunter2", "68756e", "104 117"} {
		if strings.Contains(shown, leak) {
			t.Errorf("the secret shows as %q in %s", leak, shown)
		}
	}
	if !strings.Contains(shown, "REDACTED") {
		t.Error("nothing says that a value was redacted")
	}
}

func TestLoad(t *testing.T) {
	file := filepath.Join(t.TempDir(), "s")
	if err := os.WriteFile(file, []byte("one\ntwo\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GATEHOUSE_TEST_SECRET", "from-env")
	for name, tc := range map[string]struct {
		source  Source
		want    string
		wantErr string
	}{
		"file-without-its-last-newline": {Source{File: file}, "one\ntwo", ""},
		"env":                           {Source{Env: "GATEHOUSE_TEST_SECRET"}, "from-env", ""},
		"no-such-file":                  {Source{File: "/does/not/exist"}, "", "secret x: the file cannot be read"},
		"empty-file":                    {Source{File: empty}, "", "is empty"},
		"env-not-set":                   {Source{Env: "GATEHOUSE_TEST_NOT_SET"}, "", "GATEHOUSE_TEST_NOT_SET is not set"},
		"both":                          {Source{File: file, Env: "A"}, "", "not both"},
		"none":                          {Source{}, "", "give its source"},
	} {
		t.Run(name, func(t *testing.T) {
			set, err := tc.source.Load("x")
			if tc.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tc.wantErr) {
					t.Fatalf("got %v, want an error with %q", err, tc.wantErr)
				}
				return
			}
			if err != nil || string(set.Newest().Value.Reveal()) != tc.want {
				t.Errorf("got %q, %v, want %q", set.Newest().Value.Reveal(), err, tc.want)
			}
		})
	}
}
