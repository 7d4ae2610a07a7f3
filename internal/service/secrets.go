package service

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/secret"
	"github.com/gatehouse-proxy/gatehouse/internal/secret/source"
)

// Secrets are the named secret sets of one configuration.
type Secrets map[string]*source.Handle

// OpenSecrets opens every named set. Sources on this machine are read, remote ones are not asked; that
// has no side effects, so it may run where a configuration is only checked. The caller closes them.
func (s *Settings) OpenSecrets(log *slog.Logger) (Secrets, error) {
	sets := make(Secrets, len(s.Secrets))
	for _, name := range slices.Sorted(maps.Keys(s.Secrets)) {
		h, err := source.Open(name, s.Secrets[name], log)
		if err != nil {
			sets.Close()
			return nil, err
		}
		sets[name] = h
	}
	return sets, nil
}

// start keeps the sets up to date from now on. Remote ones are read, all at once.
func (s Secrets) start(ctx context.Context) error {
	errs := make(chan error, len(s))
	for _, h := range s {
		go func() { errs <- h.Start(ctx) }()
	}
	var first error
	for range s {
		if err := <-errs; err != nil && first == nil {
			first = err
		}
	}
	return first
}

// Close gives the sets back.
func (s Secrets) Close() {
	for _, h := range s {
		h.Close()
	}
}

// Secret is the named secret set. It changes while it lives: its versions are asked for each time they are
// needed, and what is made of them is kept in a secret.Derived.
func (h *Host) Secret(name string) (*secret.Set, error) {
	if s, ok := h.secrets[name]; ok {
		return s.Set(), nil
	}
	return nil, fmt.Errorf("there is no secret named %q, known are: %s", name, list(slices.Sorted(maps.Keys(h.secrets))))
}

// handles are the named sets and the generated keys. A named one hides a key of its name.
func (h *Host) handles() map[string]*source.Handle {
	all := h.keys.all()
	maps.Copy(all, h.secrets)
	return all
}

// SecretStatus is how the named sets and the generated keys stand, by name.
func (h *Host) SecretStatus() []source.Status {
	all := h.handles()
	status := make([]source.Status, 0, len(all))
	for _, name := range slices.Sorted(maps.Keys(all)) {
		status = append(status, all[name].Status())
	}
	return status
}

// UnknownSecretError says that there is no set of a name.
type UnknownSecretError struct{ sentence string }

func (e *UnknownSecretError) Error() string { return e.sentence }

// RotateSecret puts a new version of the named set or generated key in force, see source.Handle.Rotate.
func (h *Host) RotateSecret(ctx context.Context, name string, overlap time.Duration, value []byte) (source.Rotated, error) {
	all := h.handles()
	set, ok := all[name]
	if !ok {
		return source.Rotated{}, &UnknownSecretError{fmt.Sprintf("There is no secret %.80q, known are: %s.", name, strings.Join(slices.Sorted(maps.Keys(all)), ", "))}
	}
	return set.Rotate(ctx, overlap, value)
}
