package capture

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/google/pprof/profile"
)

// Top is where the time of a CPU profile went, function by function.
type Top struct {
	// Duration is how long the profile was taken, Total the processor time in it.
	Duration, Total time.Duration
	// Functions have the one with the largest Flat first.
	Functions []Function
}

// Function is one row of a Top.
type Function struct {
	Name string
	// Flat is the processor time in the function itself, Cumulative also that in all that it called.
	Flat, Cumulative time.Duration
}

// ParseTop reads a CPU profile as Go's runtime writes it.
func ParseTop(r io.Reader) (Top, error) {
	p, err := profile.Parse(r)
	if err != nil {
		return Top{}, fmt.Errorf("the profile cannot be read: %w", err)
	}
	cpu := slices.IndexFunc(p.SampleType, func(t *profile.ValueType) bool { return t.Type == "cpu" && t.Unit == "nanoseconds" })
	if cpu < 0 {
		return Top{}, errors.New("the profile is not one of the processor time")
	}
	top := Top{Duration: time.Duration(p.DurationNanos)}
	functions := map[string]*Function{}
	for _, s := range p.Sample {
		spent := time.Duration(s.Value[cpu])
		top.Total += spent
		in := map[string]bool{} // a function that calls itself counts once
		for i, name := range stack(s) {
			f, ok := functions[name]
			if !ok {
				f = &Function{Name: name}
				functions[name] = f
			}
			if i == 0 {
				f.Flat += spent
			}
			if !in[name] {
				in[name] = true
				f.Cumulative += spent
			}
		}
	}
	for _, f := range functions {
		top.Functions = append(top.Functions, *f)
	}
	slices.SortFunc(top.Functions, func(a, b Function) int {
		return cmp.Or(cmp.Compare(b.Flat, a.Flat), cmp.Compare(b.Cumulative, a.Cumulative), strings.Compare(a.Name, b.Name))
	})
	return top, nil
}

// stack is the names of the functions of a sample, the one that ran first.
func stack(s *profile.Sample) []string {
	var names []string
	for _, at := range s.Location {
		if len(at.Line) == 0 {
			names = append(names, fmt.Sprintf("%#x", at.Address))
		}
		for _, line := range at.Line { // inlined calls, the innermost first
			if line.Function != nil {
				names = append(names, line.Function.Name)
			}
		}
	}
	return names
}

// ByCumulative is t with the function with the largest Cumulative first.
func (t Top) ByCumulative() Top {
	t.Functions = slices.Clone(t.Functions)
	slices.SortStableFunc(t.Functions, func(a, b Function) int { return cmp.Compare(b.Cumulative, a.Cumulative) })
	return t
}

// Percent is a time's share of the whole profile, 0..100.
func (t Top) Percent(d time.Duration) float64 {
	if t.Total == 0 {
		return 0
	}
	return 100 * d.Seconds() / t.Total.Seconds()
}

// Write prints the first n functions as a table.
func (t Top) Write(w io.Writer, n int) error {
	_, err := fmt.Fprintf(w, "%s of processor time in %s\n", t.Total.Round(time.Millisecond), t.Duration.Round(time.Millisecond))
	if err != nil {
		return err
	}
	if len(t.Functions) == 0 {
		_, err = fmt.Fprintln(w, "no function was seen at work")
		return err
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(table, "flat\tflat%\tcum\tcum%\t  function")
	for _, f := range t.Functions[:min(n, len(t.Functions))] {
		_, _ = fmt.Fprintf(table, "%s\t%.1f%%\t%s\t%.1f%%\t  %s\n", f.Flat, t.Percent(f.Flat), f.Cumulative, t.Percent(f.Cumulative), f.Name)
	}
	return table.Flush()
}
