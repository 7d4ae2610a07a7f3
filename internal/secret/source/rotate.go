package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/secret"
	"github.com/gatehouse-proxy/gatehouse/internal/wholefile"
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
	old, err := s.Fetch(ctx)
	if err != nil {
		return err
	}
	next, err := by(old)
	if err != nil {
		return err
	}
	return writeVersions(s.path, next)
}

func managed(path string) error {
	return notRotated("%s is mounted by Kubernetes: change the Secret there, such as with kubectl apply; the gateway sees it", path)
}

func writeVersions(path string, versions []secret.Version) error {
	content, err := secret.Format(versions)
	if err != nil {
		return notRotated("%s: %s", path, err)
	}
	return write(path, content)
}

// write replaces the file that path leads to. It keeps its owner, if that is allowed.
func write(path string, content []byte) error {
	if len(content) > secret.MaxContent {
		return notRotated("%s would have more than %d KiB: remove versions whose time is over", path, secret.MaxContent>>10)
	}
	if to, err := filepath.EvalSymlinks(path); err == nil {
		path = to
	}
	err := wholefile.Write(path, content, func(from, to string) error {
		if info, err := os.Stat(to); err == nil {
			if owner, ok := info.Sys().(*syscall.Stat_t); ok {
				_ = os.Chown(from, int(owner.Uid), int(owner.Gid))
			}
		}
		return os.Rename(from, to)
	})
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
		return notRotated("%s cannot be written by the gateway (%s): write the new version where the file comes from, or let the gateway write its directory", path, reason(err))
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// reason is the system's word for an error.
func reason(err error) string {
	if e, ok := errors.AsType[syscall.Errno](err); ok {
		return e.Error()
	}
	return "permission denied"
}

// Change writes the new version into a file of its own, and then the end of the others into theirs.
// Files whose versions are over stay.
func (s *dirStore) Change(_ context.Context, by func([]secret.Version) ([]secret.Version, error)) error {
	if inKube(s.path) {
		return managed(s.path)
	}
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
	find := func(all []secret.Version, label string) *secret.Version {
		if i := slices.IndexFunc(all, func(v secret.Version) bool { return v.Label == label }); i >= 0 {
			return &all[i]
		}
		return nil
	}
	for _, v := range next {
		if find(old, v.Label) == nil {
			if err = write(filepath.Join(s.path, v.Label), append(bytes.Clone(v.Value.Reveal()), '\n')); err != nil {
				return err
			}
		}
	}
	now := time.Now()
	for _, f := range files {
		changed := false
		for i, v := range f.versions {
			end := now // left out
			if n := find(next, v.Label); n != nil {
				end = n.RetireAt
			}
			if !end.Equal(v.RetireAt) && (v.RetireAt.IsZero() || end.Before(v.RetireAt)) {
				f.versions[i].RetireAt, changed = end, true
			}
		}
		if changed {
			if err = writeVersions(filepath.Join(s.path, f.name), f.versions); err != nil {
				return err
			}
		}
	}
	return nil
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
