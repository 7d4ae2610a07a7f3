package secret

import (
	"context"
	"errors"
	"slices"
)

// NotTakenError says that a server took no active version of a set.
type NotTakenError struct {
	// Refusal is of the last version that was tried, nil if none is active.
	Refusal error
	// Reread is why the source could not be read again, nil if it was.
	Reread error
}

// Error says both.
func (e *NotTakenError) Error() string {
	if e.Refusal == nil {
		return errors.Join(errors.New("no version is active"), e.Reread).Error()
	}
	return errors.Join(e.Refusal, e.Reread).Error()
}

// Login finds the version that a server takes; try marks it as used. It tries the newest; if the server
// refuses that, the source is read again, and then the other active versions are tried: a password may
// change at the server before or after it does in the source. An error of try that is no refusal ends
// it. If no version is taken the error is a *NotTakenError.
func (s *Set) Login(ctx context.Context, try func(Version) error, refused func(error) bool) error {
	var tried []Version
	var refusal error
	next := func(v Version) (done bool, err error) {
		tried = append(tried, v)
		if err = try(v); err != nil && refused(err) {
			refusal = err
			return false, nil
		}
		return true, err
	}
	if v, ok := s.Current().Newest(); ok {
		if done, err := next(v); done {
			return err
		}
	}
	reread := s.Refresh(ctx)
	for _, v := range s.Versions() {
		if slices.ContainsFunc(tried, func(t Version) bool { return t.Value.Equal(v.Value) }) {
			continue
		}
		if done, err := next(v); done {
			return err
		}
	}
	return &NotTakenError{refusal, reread}
}
