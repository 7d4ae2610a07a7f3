package secret

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestValueNeverShows(t *testing.T) {
	v := NewValue([]byte("hunter2"))
	var logged bytes.Buffer
	slog.New(slog.NewTextHandler(&logged, nil)).Info("m", "v", v, "p", &v, "set", NewSet("s", Version{Label: "l", Value: v}))
	js, err := json.Marshal(map[string]any{"v": v, "p": &v, "set": NewSet("s", Version{Label: "l", Value: v})})
	if err != nil {
		t.Fatal(err)
	}
	shown := logged.String() + string(js)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		shown += fmt.Sprintf(verb, v) + fmt.Sprintf(verb, &v) + fmt.Sprintf(verb, Version{Label: "l", Value: v}) + fmt.Sprintf(verb, []Value{v})
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
