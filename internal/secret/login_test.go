package secret

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestLogin(t *testing.T) {
	errRefused, errDown := errors.New("refused"), errors.New("down")
	versions := func(values ...string) (all []Version) {
		for _, v := range values {
			all = append(all, Version{Label: v, Value: NewValue([]byte(v))})
		}
		return all
	}
	for name, tc := range map[string]struct {
		before, after string // the set, before and after its source is read again
		taken         string // by the server; down for one that cannot be reached
		want          string // what is tried, in order
		wantErr       string
	}{
		"the-newest":                         {"b a", "b a", "b", "b", ""},
		"an-older-one":                       {"c b a", "c b a", "a", "c b a", ""},
		"one-that-the-source-has-just-got":   {"b a", "c b a", "c", "b c", ""},
		"none-was-active-and-now-two-are":    {"", "b a", "a", "b a", ""},
		"none-is-active":                     {"", "", "a", "", "no version is active"},
		"none-is-taken":                      {"b a", "b a", "x", "b a", "refused"},
		"a-server-that-is-down-is-no-choice": {"b a", "b a", "down", "b", "down"},
	} {
		t.Run(name, func(t *testing.T) {
			set := NewSet("s", versions(strings.Fields(tc.before)...)...)
			set.Reread = func(context.Context) error {
				set.Replace(versions(strings.Fields(tc.after)...))
				return nil
			}
			var tried []string
			err := set.Login(t.Context(), func(v Version) error {
				tried = append(tried, v.Label)
				switch tc.taken {
				case "down":
					return errDown
				case v.Label:
					return nil
				}
				return errRefused
			}, func(err error) bool { return errors.Is(err, errRefused) })
			if !slices.Equal(tried, strings.Fields(tc.want)) {
				t.Errorf("tried %v, want %s", tried, tc.want)
			}
			if tc.wantErr == "" && err != nil || tc.wantErr != "" && (err == nil || err.Error() != tc.wantErr) {
				t.Errorf("got %v, want %q", err, tc.wantErr)
			}
		})
	}
}
