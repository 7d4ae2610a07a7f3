package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/secret"
)

// rotateTime bounds a rotation, which goes on when whoever asked for it has gone.
const rotateTime = time.Minute

// labeler is a store that says what its next version is called.
type labeler interface {
	nextLabel(old []secret.Version, now time.Time) string
}

// NotRotatedError says why a set cannot be rotated here, and what to do instead.
type NotRotatedError struct{ sentence string }

func (e *NotRotatedError) Error() string { return e.sentence }

func notRotated(format string, args ...any) error {
	return &NotRotatedError{fmt.Sprintf(format, args...)}
}

// Rotated says what a rotation has done.
type Rotated struct {
	// Newest is the label of the new version.
	Newest string `json:"newest"`
	// ActiveFrom is when it begins to sign; absent for at once. In a database, Vault or AWS that is two polls
	// later, when all who read it know it, and at the end of the overlap at the latest.
	ActiveFrom *time.Time `json:"active_from,omitempty"`
	// Retiring are the versions that go on verifying until the given times.
	Retiring []VersionStatus `json:"retiring"`
}

// Rotate puts a new version in force: value, or if that is nil a new one of the same kind as the
// newest. Those before it go on verifying for overlap, and then retire. A source that cannot be
// written to from here is a NotRotatedError.
func (h *Handle) Rotate(ctx context.Context, overlap time.Duration, value []byte) (Rotated, error) {
	k := h.live.keeper
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rotateTime)
	defer cancel()
	if overlap < 0 || overlap > maxOverlap {
		return Rotated{}, notRotated("the overlap must be from 0 to 10 years, not %s", overlap)
	}
	store, ok := k.fetch.(secret.Store)
	if !ok {
		return Rotated{}, notRotated("the secret %s is not rotated from here: %s", k.name, k.refusal)
	}
	if value != nil {
		if _, err := secret.Parse("", value); err != nil {
			return Rotated{}, notRotated("the new value: %s", err)
		}
		value = bytes.TrimSuffix(bytes.TrimSuffix(value, []byte("\n")), []byte("\r"))
	}
	k.rotating.Lock()
	defer k.rotating.Unlock()
	var label string
	err := store.Change(ctx, func(old []secret.Version) (next []secret.Version, err error) {
		now := time.Now().UTC()
		label = k.nextLabel(old, now)
		next, err = rotated(old, now, min(k.lead, overlap), overlap, label, value)
		return next, err
	})
	if err != nil {
		return Rotated{}, fmt.Errorf("rotating the secret %s: %w", k.name, err)
	}
	if err = k.read(ctx); err != nil {
		return Rotated{}, fmt.Errorf("the secret %s has the new version %s, which is in force as soon as it can be read: %w", k.name, label, err)
	}
	k.log.Load().Info("a secret was rotated", "secret", k.name, "newest", label, "overlap", overlap.String())
	done, seen := Rotated{Newest: label, Retiring: []VersionStatus{}}, !k.remote
	for _, v := range h.Status().Versions {
		if v.Label == label {
			done.ActiveFrom, seen = v.ActiveFrom, true
		}
		if v.State == stateRetiring {
			done.Retiring = append(done.Retiring, v)
		}
	}
	if !seen { // a copy of the store that is behind was read
		return Rotated{}, fmt.Errorf("the secret %s has the new version %s, but a read does not show it yet: it is in force as soon as one does", k.name, label)
	}
	return done, nil
}

func (k *keeper) nextLabel(old []secret.Version, now time.Time) string {
	if l, ok := k.fetch.(labeler); ok {
		return l.nextLabel(old, now)
	}
	return timeLabel(old, now)
}

// timeLabel is the time, and a number where that is taken.
func timeLabel(old []secret.Version, now time.Time) string {
	base := now.Format(time.RFC3339)
	label := base
	for n := 2; labelled(old, label); n++ {
		label = base + "-" + strconv.Itoa(n)
	}
	return label
}

// rotated are the versions after a rotation: those yet to come, the new one, which begins after lead,
// and the others with their end. Those whose time is over are left out; one that ends now stays, so that the
// overlap of the source does not keep it.
func rotated(old []secret.Version, now time.Time, lead, overlap time.Duration, label string, value []byte) ([]secret.Version, error) {
	snap := secret.NewSet("", old...).Current()
	newest, ok := snap.Newest()
	switch {
	case value != nil && slices.ContainsFunc(old, func(v secret.Version) bool { return bytes.Equal(v.Value.Reveal(), value) }):
		return nil, notRotated("the new value is one that the secret already has: give another")
	case value == nil && !ok:
		return nil, notRotated("no version is active, so it is not known what a new one must be like: give the value with --value -")
	case value == nil:
		var err error
		if value, err = newLike(newest.Value.Reveal()); err != nil {
			return nil, notRotated("%s", err)
		}
	}
	fresh := secret.Version{Label: label, Value: secret.NewValue(value)}
	begin := now.Add(lead)
	if lead > 0 {
		fresh.ActiveFrom = begin
	}
	var next, before []secret.Version
	for _, v := range old {
		if v.ActiveFrom.After(begin) {
			next = append(next, v)
			continue
		}
		if end := now.Add(overlap); v.RetireAt.IsZero() || end.Before(v.RetireAt) {
			v.RetireAt = end
		}
		if !now.After(v.RetireAt) && v.ActiveFrom.Before(v.RetireAt) {
			before = append(before, v)
		}
	}
	return append(append(next, fresh), before...), nil
}

// Change writes the file anew, as a versions document.
func (s *fileStore) Change(ctx context.Context, by func([]secret.Version) ([]secret.Version, error)) error {
	if inKube(s.path) {
		return managed(s.path)
	}
	unlock, err := lock(ctx, filepath.Dir(target(s.path)))
	if err != nil {
		return err
	}
	defer unlock()
	old, err := s.Fetch(ctx)
	if err != nil {
		return err
	}
	next, err := by(old)
	if err != nil {
		return err
	}
	content, err := format(s.path, next)
	if err != nil {
		return err
	}
	return write(s.path, content, replace)
}

func managed(path string) error {
	return notRotated("%s is mounted by Kubernetes: change the Secret there, such as with kubectl apply; the gateway sees it", path)
}

// Change writes the new version into a file of its own, and then the end of the others into theirs.
// Files whose versions are over stay.
func (s *dirStore) Change(ctx context.Context, by func([]secret.Version) ([]secret.Version, error)) error {
	if inKube(s.path) {
		return managed(s.path)
	}
	unlock, err := lock(ctx, target(s.path))
	if err != nil {
		return err
	}
	defer unlock()
	files, err := s.files()
	if err != nil {
		return err
	}
	old, err := flatten(s.path, files)
	if err != nil {
		return err
	}
	next, err := by(old)
	if err != nil {
		return err
	}
	changed, err := s.ended(files, next)
	if err != nil {
		return err
	}
	var made []string
	for _, v := range next {
		if labelled(old, v.Label) {
			continue
		}
		path := filepath.Join(s.path, v.Label)
		if err = write(path, append(bytes.Clone(v.Value.Reveal()), '\n'), os.Link); err != nil {
			return err
		}
		made = append(made, path)
	}
	for _, c := range changed {
		if err = write(c.path, c.content, replace); err != nil {
			for _, path := range made { // the rotation is none
				err = errors.Join(err, os.Remove(path))
			}
			return err
		}
	}
	return nil
}

// change is what a file is to hold.
type change struct {
	path    string
	content []byte
}

// ended are the files of which versions have another end in next, or are not in it: these end now. The
// newest file is the last.
func (s *dirStore) ended(files []dirFile, next []secret.Version) (changed []change, err error) {
	now := time.Now()
	for _, f := range slices.Backward(files) {
		before := len(changed)
		for i, v := range f.versions {
			end := now
			if n := slices.IndexFunc(next, func(n secret.Version) bool { return n.Label == v.Label }); n >= 0 {
				end = next[n].RetireAt
			}
			if !end.Equal(v.RetireAt) && (v.RetireAt.IsZero() || end.Before(v.RetireAt)) {
				f.versions[i].RetireAt = end
				changed = append(changed[:before], change{path: filepath.Join(s.path, f.name)})
			}
		}
		if len(changed) > before {
			c := &changed[before]
			if c.content, err = format(c.path, f.versions); err != nil {
				return nil, err
			}
		}
	}
	return changed, nil
}

// lastNumber is the last number of a name.
var lastNumber = regexp.MustCompile(`[0-9]+([^0-9]*)$`)

// dateName is a name that is a month or a day.
var dateName = regexp.MustCompile(`^[0-9]{4}-[0-9]{2}(-[0-9]{2})?$`)

// nextLabel is a file name behind all others in natural order, in the manner of the last one: v3
// after v2, today's date after a date.
func (s *dirStore) nextLabel(_ []secret.Version, now time.Time) string {
	files, err := s.files()
	if err != nil || len(files) == 0 {
		return now.Format("2006-01-02")
	}
	last := files[0].name
	var names []string
	switch match := lastNumber.FindStringSubmatchIndex(last); {
	case dateName.MatchString(last):
		names = append(names, now.Format("2006-01"), now.Format("2006-01-02"), now.Format("2006-01-02T150405Z"))
	case match != nil:
		digits := last[match[0]:match[2]]
		if n, err := strconv.ParseUint(digits, 10, 63); err == nil {
			names = append(names, fmt.Sprintf("%s%0*d%s", last[:match[0]], len(digits), n+1, last[match[2]:]))
		}
	}
	if base, ext, ok := strings.Cut(last, "."); ok {
		names = append(names, base+"-2."+ext)
	}
	names = append(names, last+"-2")
	if len(last) == len("2006-01-02") && dateName.MatchString(last) {
		names = slices.DeleteFunc(names, func(n string) bool { return len(n) < len(last) })
	}
	for _, name := range names {
		if natural(name, last) > 0 {
			return name
		}
	}
	return last + "-2" // longer, so behind
}
