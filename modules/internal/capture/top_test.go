package capture

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/pprof/profile"
)

// sampled is a profile with these stacks, innermost function first, 10 ms each.
func sampled(t testing.TB, stacks ...string) []byte {
	t.Helper()
	p := &profile.Profile{
		SampleType:    []*profile.ValueType{{Type: "samples", Unit: "count"}, {Type: "cpu", Unit: "nanoseconds"}},
		DurationNanos: int64(time.Second),
	}
	at := map[string]*profile.Location{}
	for _, stack := range stacks {
		s := &profile.Sample{Value: []int64{1, int64(10 * time.Millisecond)}}
		for name := range strings.FieldsSeq(stack) {
			if at[name] == nil {
				f := &profile.Function{ID: uint64(len(at) + 1), Name: name}
				p.Function = append(p.Function, f)
				at[name] = &profile.Location{ID: f.ID, Line: []profile.Line{{Function: f}}}
				p.Location = append(p.Location, at[name])
			}
			s.Location = append(s.Location, at[name])
		}
		p.Sample = append(p.Sample, s)
	}
	var b bytes.Buffer
	if err := p.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestTop(t *testing.T) {
	const ms = time.Millisecond
	top, err := ParseTop(bytes.NewReader(sampled(t, "hash serve main", "hash serve main", "serve main", "walk walk walk main")))
	if err != nil {
		t.Fatal(err)
	}
	want := Top{Duration: time.Second, Total: 40 * ms, Functions: []Function{
		{"hash", 20 * ms, 20 * ms}, {"serve", 10 * ms, 30 * ms}, {"walk", 10 * ms, 10 * ms}, {"main", 0, 40 * ms},
	}}
	if diff := cmp.Diff(want, top); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	var b strings.Builder
	if err = top.ByCumulative().Write(&b, 2); err != nil {
		t.Fatal(err)
	}
	text := `40ms of processor time in 1s
  flat  flat%   cum    cum%  function
    0s   0.0%  40ms  100.0%  main
  10ms  25.0%  30ms   75.0%  serve
`
	if diff := cmp.Diff(text, b.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestTopOfNothing(t *testing.T) {
	top, err := ParseTop(bytes.NewReader(sampled(t)))
	if err != nil || len(top.Functions) != 0 || top.Percent(1) != 0 {
		t.Errorf("got %+v, %v", top, err)
	}
	if _, err = ParseTop(strings.NewReader("no profile")); err == nil {
		t.Error("no error for what is no profile")
	}
	var b bytes.Buffer
	heap := &profile.Profile{SampleType: []*profile.ValueType{{Type: "inuse_space", Unit: "bytes"}}}
	if err = heap.Write(&b); err != nil {
		t.Fatal(err)
	}
	if _, err = ParseTop(&b); err == nil {
		t.Error("no error for a profile of memory")
	}
}
