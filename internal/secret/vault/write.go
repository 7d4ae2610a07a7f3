package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/gatehouse-proxy/gatehouse/internal/secret"
	"github.com/gatehouse-proxy/gatehouse/internal/secret/remote"
)

// casMismatch begins Vault's sentence about a write that was meant to follow another version.
const casMismatch = "check-and-set parameter did not match"

// Change writes what by makes of the versions as the next version of the secret, unless there is one
// already. Its other fields stay as they are.
func (s *store) Change(ctx context.Context, by func(old []secret.Version) ([]secret.Version, error)) error {
	if err := s.turn.Take(ctx); err != nil {
		return err
	}
	defer s.turn.Give()
	reading, cancel := context.WithTimeout(ctx, remote.StepTime)
	defer cancel()
	current, old, err := s.versions(reading)
	if err != nil {
		return err
	}
	next, err := by(old)
	if err != nil {
		return err
	}
	content, err := secret.Format(next)
	if err != nil {
		return err
	}
	data, err := remote.Put(current.fields, s.config.Field, content)
	if err != nil {
		return err
	}
	if err = s.write(ctx, current.number, data); err == nil {
		return nil
	}
	if a, ok := errors.AsType[*answer](err); ok && a.status < http.StatusInternalServerError {
		return s.unwritten(a)
	}
	return s.settle(ctx, current.number, content, err)
}

// write makes data the version after number.
func (s *store) write(ctx context.Context, number int, data map[string]json.RawMessage) error {
	ctx, cancel := context.WithTimeout(ctx, remote.StepTime)
	defer cancel()
	body := map[string]any{"options": map[string]int{"cas": number}, "data": data}
	return s.ask(ctx, http.MethodPost, s.dataPath(), body, new(struct{}))
}

// unwritten says what to do about a write that Vault refuses.
func (s *store) unwritten(a *answer) error {
	switch {
	case a.status == http.StatusForbidden:
		what := fmt.Sprintf("it may not be written, the policy lacks the capability update: path %q { capabilities = [\"read\", \"update\"] }", s.mount+"/data/"+s.path)
		return fmt.Errorf("writing %s: %w", s.config.Path, a.say(what+s.orAnotherToken()))
	case slices.ContainsFunc(a.errors(), func(text string) bool { return strings.Contains(text, casMismatch) }):
		return s.overtaken()
	}
	return fmt.Errorf("writing %s: %w", s.config.Path, a.advise())
}

func (s *store) overtaken() error {
	return fmt.Errorf("another has changed %s in Vault meanwhile, and that change stays: look at it with gatehouse secrets status, and try again", s.config.Path)
}

// settle finds out whether a write whose answer is lost was done.
func (s *store) settle(ctx context.Context, before int, content []byte, lost error) error {
	if a, ok := errors.AsType[*answer](lost); ok {
		lost = a.advise()
	}
	ctx, cancel := context.WithTimeout(ctx, remote.StepTime)
	defer cancel()
	now, err := s.read(ctx, 0)
	switch now.number {
	case 0:
		return fmt.Errorf("writing %s: %w; whether it was written is not known (%w): it is in force as soon as it is read, see gatehouse secrets status", s.config.Path, lost, err)
	case before:
		return fmt.Errorf("writing %s: %w; nothing has changed", s.config.Path, lost)
	}
	if again, err := secret.Format(now.versions); err == nil && bytes.Equal(again, content) {
		return nil
	}
	return s.overtaken()
}
