package gatehouse

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

func TestLogFollowsTheConfiguration(t *testing.T) {
	app := func(to *bytes.Buffer) *App { return &App{log: slog.New(slog.NewTextHandler(to, nil))} }
	var one, two, refused bytes.Buffer
	first, second, third := app(&one), app(&two), app(&refused)
	logs := &logTarget{open: []*App{first}}
	log := slog.New(logHandler{target: logs}).With("backend", "jobs").WithGroup("g")

	log.Info("a", "k", 1)
	logs.enter(second)
	logs.leave(first)
	log.Info("b", "k", 2)
	logs.enter(third)
	logs.leave(third)
	log.Info("c", "k", 3)
	logs.leave(second) // the host closes
	log.Info("d", "k", 4)

	for name, tc := range map[string]struct {
		got  string
		want []string
	}{
		"first":   {one.String(), []string{"msg=a backend=jobs g.k=1"}},
		"second":  {two.String(), []string{"msg=b backend=jobs g.k=2", "msg=c backend=jobs g.k=3", "msg=d backend=jobs g.k=4"}},
		"refused": {refused.String(), nil},
	} {
		if got := strings.Count(tc.got, "\n"); got != len(tc.want) {
			t.Errorf("%s has %d lines, want %d:\n%s", name, got, len(tc.want), tc.got)
		}
		for _, line := range tc.want {
			if !strings.Contains(tc.got, line) {
				t.Errorf("%s lacks %q:\n%s", name, line, tc.got)
			}
		}
	}
}
