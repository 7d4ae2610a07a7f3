package dispense

import (
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

type parsed struct {
	window unit.Duration
	size   unit.Size
	n      int
	name   string
	list   []string
	on     bool
}

func read(input string) (parsed, error) {
	var p parsed
	d := caddyfile.NewTestDispenser(input)
	d.Next()
	err := Block(d, "limit",
		Option{Name: "window", Parse: func(d *caddyfile.Dispenser) error { return Duration(d, &p.window) }},
		Option{Name: "size", Parse: func(d *caddyfile.Dispenser) error { return Size(d, &p.size) }},
		Option{Name: "count", Parse: func(d *caddyfile.Dispenser) error { return Int(d, &p.n, 1) }},
		Option{Name: "name", Parse: func(d *caddyfile.Dispenser) error { return String(d, &p.name) }},
		Option{Name: "list", Repeats: true, Parse: func(d *caddyfile.Dispenser) error { return Strings(d, &p.list) }},
		Option{Name: "on", Parse: func(d *caddyfile.Dispenser) error { return Flag(d, &p.on) }},
	)
	return p, err
}

func TestBlock(t *testing.T) {
	p, err := read("limit {\n\twindow 2m\n\tsize 1KiB\n\tcount 3\n\tname x\n\tlist a b\n\tlist c\n\ton\n}")
	if err != nil || p.window.String() != "2m0s" || p.size != 1024 || p.n != 3 || p.name != "x" || strings.Join(p.list, "") != "abc" || !p.on {
		t.Errorf("got %+v, %v", p, err)
	}
	if p, err = read("limit"); err != nil || p.n != 0 {
		t.Errorf("without a block: got %+v, %v", p, err)
	}
}

func TestBlockErrors(t *testing.T) {
	for input, want := range map[string]string{
		"widnow 2m":      "unknown option of limit: widnow, did you mean window?",
		"zzzzzzzz":       "known are: window, size, count, name, list, on",
		"window":         "window needs a value",
		"window 2":       `window: "2" is not a duration`,
		"window 2m 3m":   `window: "3m" is one value too many`,
		"size huge":      `size: "huge" is not a size`,
		"count 0":        "count: it must be at least 1, not 0",
		"count x":        `"x" is not a whole number`,
		"list":           "list needs at least one value",
		"on off":         `on: "off" is one value too many`,
		"name a\nname b": "name is given twice",
	} {
		_, err := read("limit {\n" + input + "\n}")
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "Testfile:") {
			t.Errorf("%q: got %v, want %q with its line", input, err, want)
		}
	}
}

func TestNearest(t *testing.T) {
	known := []string{"limit", "quota", "backend"}
	for word, want := range map[string]string{"limt": "limit", "qouta": "quota", "backends": "backend", "xyz": "", "": ""} {
		if got := Nearest(word, known); got != want {
			t.Errorf("%s: got %q, want %q", word, got, want)
		}
	}
}
