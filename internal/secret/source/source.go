// Package source reads secret sets from where they are kept and keeps them up to date: files,
// directories and environment variables, HashiCorp Vault, AWS Secrets Manager, and other stores that
// the caller brings. Sets are shared by source in the whole process, so that a change of
// configuration goes on with the same set: its last good read, its uses, its replaced values.
package source

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/secret"
	"github.com/gatehouse-proxy/gatehouse/internal/secret/aws"
	"github.com/gatehouse-proxy/gatehouse/internal/secret/vault"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

const (
	defaultPoll      = 30 * time.Second
	minPoll, maxPoll = time.Second, time.Minute
	maxOverlap       = 10 * 365 * 24 * time.Hour
)

// Source says where a set is read from. Exactly one of File, Dir, Env, Vault and AWS is set. What is
// read is the value itself, or a versions document, see secret.Parse.
type Source struct {
	// File is the path of a file with the value; one trailing newline is not part of it.
	File string `json:"file,omitempty"`
	// Generate says that File is made at the first start, with 32 random bytes in hexadecimal and mode 0600,
	// where there is none. Default: a file that is not there is an error.
	Generate bool `json:"generate,omitempty"`
	// Dir is the path of a directory in which each file that is not hidden is a version: its name is the
	// label, and the last name in natural order is the newest (v2 before v10, 2026-09 before 2026-10). A
	// secret that Kubernetes mounts is one.
	Dir string `json:"dir,omitempty"`
	// Env is the name of an environment variable with the value. It never changes while the process runs.
	Env string `json:"env,omitempty"`
	// Vault is HashiCorp Vault's key-value store of version 2.
	Vault *vault.Config `json:"vault,omitempty"`
	// AWS is AWS Secrets Manager.
	AWS *aws.Config `json:"aws,omitempty"`
	// Overlap is how long a value goes on verifying after another has replaced it in the source. For
	// File, Dir and Env the process remembers the replaced value, until it ends. Default: 0, what the
	// source holds is what is valid.
	Overlap unit.Duration `json:"overlap,omitempty"`
	// Poll is how often the source is read, 1s to 1m. Files are watched besides. Default: 30s.
	Poll unit.Duration `json:"poll,omitempty"`
	// At is where the configuration names the source, such as Caddyfile:12; errors show it.
	At string `json:"at,omitempty"`
}

// Kinds are the words for the sources.
var Kinds = []string{"file", "dir", "env", "vault", "aws"}

// kinds are those that are set.
func (s *Source) kinds() (set []string) {
	for i, given := range []bool{s.File != "", s.Dir != "", s.Env != "", s.Vault != nil, s.AWS != nil} {
		if given {
			set = append(set, Kinds[i])
		}
	}
	return set
}

// Remote says that the source is not on this machine, so it is not asked before the set is started.
func (s *Source) Remote() bool { return s.Vault != nil || s.AWS != nil }

// Validate says what is wrong with the settings, without reading anything.
func (s *Source) Validate() error {
	switch kinds := s.kinds(); {
	case len(kinds) == 0:
		return errors.New("give its source: file PATH, dir PATH, env VARIABLE, vault MOUNT/PATH or aws SECRET_ID")
	case len(kinds) > 1:
		return fmt.Errorf("give one source, not both %s and %s", kinds[0], kinds[1])
	}
	if s.Generate && s.File == "" {
		return errors.New("generate is for a file, such as: secret NAME file PATH { generate }")
	}
	switch poll := s.Poll.Std(); {
	case poll != 0 && (poll < minPoll || poll > maxPoll):
		return fmt.Errorf("poll must be from 1s to 1m, not %s", poll)
	case s.Overlap < 0 || s.Overlap.Std() > maxOverlap:
		return errors.New("overlap must be from 0 to 10 years, such as 24h")
	case s.Env != "" && poll != 0:
		return errors.New("an environment variable does not change while the process runs, leave out poll or use file")
	}
	if s.Vault != nil {
		return s.Vault.Validate()
	}
	if s.AWS != nil {
		return s.AWS.Validate()
	}
	return nil
}

// key identifies the source with its settings.
func (s Source) key() (string, error) {
	s.At = "" // a line that moved changes nothing
	b, err := json.Marshal(s)
	if err != nil {
		return "", fmt.Errorf("encoding the source: %w", err)
	}
	return string(b), nil
}

// open is what reads the source.
func (s *Source) open() (k *keeper, err error) {
	k = &keeper{poll: s.Poll.Or(defaultPoll), overlap: s.Overlap.Std(), at: s.At}
	k.kind = s.kinds()[0]
	switch {
	case s.File != "":
		store := &fileStore{path: s.File, warn: k.warn}
		k.fetch, k.places = store, store.places
		if s.Generate {
			k.made = s.File
		}
	case s.Dir != "":
		store := &dirStore{path: s.Dir, warn: k.warn}
		k.fetch, k.places = store, store.places
	case s.Env != "":
		k.fetch, k.fixed = envStore(s.Env), true
		k.refusal = "it is the environment variable " + s.Env + ", which cannot change while the process runs: set it anew and restart, or keep the secret in a file"
	case s.Vault != nil:
		settings := *s.Vault
		settings.Overlap = s.Overlap
		k.fetch, err = vault.New(settings)
		k.remote, k.overlap, k.lead = true, 0, 2*k.poll // the fetcher knows the previous version
	default:
		settings := *s.AWS
		settings.Overlap = s.Overlap
		k.fetch, err = aws.New(settings)
		k.remote, k.overlap, k.lead = true, 0, 2*k.poll
	}
	return k, err
}

// Interface guards
var (
	_ secret.Store   = (*fileStore)(nil)
	_ secret.Store   = (*dirStore)(nil)
	_ secret.Fetcher = envStore("")
)
