// Package dispense parses the blocks of our directives: each subdirective once unless it may
// repeat, unknown words answered with the nearest right one, and quantities with a sentence on how
// to write them. All errors name file and line.
package dispense

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

// Option is one subdirective of a block.
type Option struct {
	// Name is the word that begins the line.
	Name string
	// Repeats says that the option may stand in the block more than once.
	Repeats bool
	// Parse reads the rest of the line, and a block if there is one. The dispenser stands on Name.
	Parse func(d *caddyfile.Dispenser) error
}

// Block parses the block that follows on the dispenser's line, if there is one. owner is the
// directive's name, for the errors.
func Block(d *caddyfile.Dispenser, owner string, options ...Option) error {
	seen := map[string]bool{}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		word := d.Val()
		o := find(options, word)
		if o == nil {
			names := make([]string, len(options))
			for i, o := range options {
				names[i] = o.Name
			}
			return d.Errf("%s", Unknown("option of "+owner, word, names))
		}
		if seen[word] && !o.Repeats {
			return d.Errf("%s: %s is given twice, keep one of the lines", owner, word)
		}
		seen[word] = true
		if err := o.Parse(d); err != nil {
			return err
		}
	}
	return nil
}

func find(options []Option, word string) *Option {
	for i := range options {
		if options[i].Name == word {
			return &options[i]
		}
	}
	return nil
}

// Unknown is the sentence for a word that is none of the known ones: it offers the nearest, or lists them.
func Unknown(what, word string, known []string) string {
	s := "unknown " + what + ": " + word
	if near := Nearest(word, known); near != "" {
		return s + ", did you mean " + near + "?"
	}
	if len(known) == 0 {
		return s + ", it has none"
	}
	return s + ", known are: " + strings.Join(known, ", ")
}

// Nearest is the known word at the smallest edit distance from word, or "" if none is near.
func Nearest(word string, known []string) string {
	best, near := len(word)/2+1, ""
	for _, k := range known {
		if n := distance(word, k); n < best {
			best, near = n, k
		}
	}
	return near
}

// distance is the Levenshtein distance.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}

// String reads exactly one argument.
func String(d *caddyfile.Dispenser, v *string) error {
	name := d.Val()
	if !d.NextArg() {
		return d.Errf("%s needs a value", name)
	}
	*v = d.Val()
	return End(d, name)
}

// Strings reads one argument or more.
func Strings(d *caddyfile.Dispenser, v *[]string) error {
	name := d.Val()
	args := d.RemainingArgs()
	if len(args) == 0 {
		return d.Errf("%s needs at least one value", name)
	}
	*v = append(*v, args...)
	return nil
}

// Flag reads an option that has no argument.
func Flag(d *caddyfile.Dispenser, v *bool) error {
	*v = true
	return End(d, d.Val())
}

// Duration reads one duration, such as 5s or 30d.
func Duration(d *caddyfile.Dispenser, v *unit.Duration) error {
	return parse(d, v, unit.ParseDuration)
}

// Size reads one size, such as 10MiB.
func Size(d *caddyfile.Dispenser, v *unit.Size) error { return parse(d, v, unit.ParseSize) }

// Int reads one whole number of at least least.
func Int(d *caddyfile.Dispenser, v *int, least int) error {
	return parse(d, v, func(s string) (int, error) { return atLeast(s, least) })
}

func parse[T any](d *caddyfile.Dispenser, v *T, read func(string) (T, error)) error {
	var s string
	name := d.Val()
	if err := String(d, &s); err != nil {
		return err
	}
	value, err := read(s)
	if err != nil {
		return d.Errf("%s: %v", name, err)
	}
	*v = value
	return nil
}

// End makes sure that nothing more stands on the line.
func End(d *caddyfile.Dispenser, name string) error {
	if d.NextArg() {
		return d.Errf("%s: %q is one value too many", name, d.Val())
	}
	return nil
}

func atLeast(s string, least int) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0, fmt.Errorf("%q is not a whole number", s)
	}
	if n < least {
		return 0, fmt.Errorf("it must be at least %d, not %d", least, n)
	}
	return n, nil
}
