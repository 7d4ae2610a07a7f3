// Package vault reads secret sets from HashiCorp Vault's key-value store of version 2, and writes them.
// It speaks Vault's documented HTTP API with net/http, of which it needs a login, a read and a write: the
// client library of Vault would bring many dependencies for these.
package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/secret"
	"github.com/gatehouse-proxy/gatehouse/internal/secret/remote"
)

const (
	// fractionOfLeaseSpent is how much of a token's lease passes before another is asked for.
	fractionOfLeaseSpent = 2.0 / 3
	// maxPrevious bounds the versions before the current one that are read.
	maxPrevious = 5
	// maxPath is how much of a path, in bytes, a label shows: its end.
	maxPath = 100
)

// store is one secret in Vault.
type store struct {
	config      Config
	base        string // the address without a slash at its end
	mount, path string
	client      *http.Client
	login       login
	now         func() time.Time

	turn    remote.Turn // of the fetch or change that owns what follows
	token   string
	expires time.Time // when another token is due; zero for never
}

// New is the set's source. It opens no connection before it is first read; the file of c.CA is read now.
func New(c Config) (secret.Store, error) { return open(c) }

func open(c Config) (*store, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.Address == "" {
		c.Address = os.Getenv(addressVariable)
		if c.Address == "" {
			return nil, errors.New("the address of Vault is not known: give address, or set " + addressVariable)
		}
		if err := remote.CheckURL(addressVariable, c.Address); err != nil {
			return nil, err
		}
	}
	client, err := newClient(c.CA)
	if err != nil {
		return nil, err
	}
	c.Field = or(c.Field, defaultField)
	s := &store{config: c, base: strings.TrimRight(c.Address, "/"), client: client, login: c.login(), now: time.Now, turn: remote.NewTurn()}
	s.mount, s.path = c.split()
	return s, nil
}

// Fetch reads the current version of the secret, and those before it that the overlap keeps.
func (s *store) Fetch(ctx context.Context) ([]secret.Version, error) {
	if err := s.turn.Take(ctx); err != nil {
		return nil, err
	}
	defer s.turn.Give()
	_, versions, err := s.versions(ctx)
	return versions, err
}

// versions are those of the current version of the secret, and of those before it that the overlap keeps.
func (s *store) versions(ctx context.Context) (current kept, versions []secret.Version, err error) {
	if current, err = s.read(ctx, 0); err != nil {
		return kept{}, nil, err
	}
	next := current
	versions = next.versions
	for range maxPrevious {
		until := next.created.Add(s.config.Overlap.Std())
		if s.config.Overlap <= 0 || next.number <= 1 || !until.After(s.now()) {
			break
		}
		previous, err := s.read(ctx, next.number-1)
		if _, no := errors.AsType[*unusableError](err); no && previous.number == 0 {
			break // Vault keeps it no longer
		} else if err != nil && !no {
			return kept{}, nil, fmt.Errorf("reading the version before: %w", err)
		}
		versions = remote.Before(versions, previous.versions, next.created, s.config.Overlap.Std(), s.label(previous.number))
		next = previous
	}
	return current, versions, nil
}

// unusableError is of a version that holds no secret.
type unusableError struct{ text string }

func (e *unusableError) Error() string { return e.text }

func unusable(format string, args ...any) error {
	return &unusableError{fmt.Sprintf(format, args...)}
}

// kept is one version of the secret as Vault keeps it.
type kept struct {
	number   int
	created  time.Time
	fields   map[string]json.RawMessage
	versions []secret.Version // none if the error says that it cannot be used
}

// found is Vault's answer to a read. That of a deleted version has the metadata alone.
type found struct {
	Data struct {
		Data     map[string]json.RawMessage `json:"data"`
		Metadata struct {
			Created   time.Time `json:"created_time"`
			Destroyed bool      `json:"destroyed"`
			Version   int       `json:"version"`
		} `json:"metadata"`
	} `json:"data"`
}

// read reads a version of the secret; 0 is the current one.
func (s *store) read(ctx context.Context, number int) (k kept, err error) {
	path := s.dataPath()
	if number > 0 {
		path += "?version=" + strconv.Itoa(number)
	}
	var got found
	err = s.ask(ctx, http.MethodGet, path, nil, &got)
	a, refused := errors.AsType[*answer](err)
	if refused && a.status == http.StatusNotFound && json.Unmarshal(a.text, &got) == nil && got.Data.Metadata.Version > 0 {
		err = s.deleted(got)
	} else if refused {
		return k, s.explain(a)
	}
	k.number, k.created, k.fields = got.Data.Metadata.Version, got.Data.Metadata.Created, got.Data.Data
	switch {
	case err != nil:
		return k, err
	case got.Data.Data == nil || k.number == 0:
		return kept{}, unusable("the mount %s is no key-value store of version 2: make it one with vault kv enable-versioning %s, or name another", s.mount, s.mount)
	}
	where := fmt.Sprintf("version %d of %s in Vault", k.number, s.config.Path)
	content, err := remote.Field(got.Data.Data, s.config.Field)
	if err != nil {
		return k, unusable("%s: %v", where, err)
	}
	if k.versions, err = secret.Parse(s.label(k.number), content); err != nil {
		return k, unusable("the field %.80q of %s: %v", s.config.Field, where, err)
	}
	return k, nil
}

func (s *store) dataPath() string { return segments(s.mount) + "/data/" + segments(s.path) }

// ask makes a request with a token. A token that was kept may have been revoked, so if it is refused the
// store logs in and asks once more.
func (s *store) ask(ctx context.Context, method, path string, body, into any) error {
	fresh, err := s.logIn(ctx)
	if err != nil {
		return err
	}
	err = s.call(ctx, method, path, s.token, body, into)
	if a, ok := errors.AsType[*answer](err); !ok || a.status != http.StatusForbidden || fresh {
		return err
	}
	s.token = ""
	if _, err = s.logIn(ctx); err != nil {
		return err
	}
	return s.call(ctx, method, path, s.token, body, into)
}

func (s *store) deleted(got found) error {
	n := got.Data.Metadata.Version
	if got.Data.Metadata.Destroyed {
		return unusable("version %d of %s in Vault was destroyed: write another with vault kv put", n, s.config.Path)
	}
	return unusable("version %d of %s in Vault was deleted: take that back with vault kv undelete -versions=%d -mount=%s %s, or write another", n, s.config.Path, n, s.mount, s.path)
}

// explain says what to do about a read that has not succeeded.
func (s *store) explain(a *answer) error {
	switch a.status {
	case http.StatusForbidden:
		what := fmt.Sprintf("it may not be read, give the role a policy with path %q { capabilities = [\"read\"] }", s.mount+"/data/"+s.path)
		return fmt.Errorf("reading %s: %w", s.config.Path, a.say(what+s.orAnotherToken()))
	case http.StatusNotFound:
		if slices.ContainsFunc(a.errors(), func(text string) bool { return strings.HasPrefix(text, "no handler for route") }) {
			return a.say(fmt.Sprintf("nothing is mounted at %s, correct the path, whose first part is the mount, or the namespace", s.mount))
		}
		return unusable("%v", a.say(fmt.Sprintf("there is no such secret: write it with vault kv put -mount=%s %s %s=…, or correct the path, which has no data/ of its own", s.mount, s.path, s.config.Field)))
	}
	return fmt.Errorf("reading %s: %w", s.config.Path, a.advise())
}

// orAnotherToken ends a sentence about what a token may not do.
func (s *store) orAnotherToken() string {
	if s.config.TokenFile == "" {
		return ""
	}
	return ", or write a token that has not ended into " + s.config.TokenFile
}

// label is vault:MOUNT/PATH#version.
func (s *store) label(number int) string {
	path := s.config.Path
	if cut := len(path) - maxPath; cut > 0 {
		path = strings.ToValidUTF8(path[cut:], "")
	}
	return "vault:" + path + "#" + strconv.Itoa(number)
}

// Interface guard
var _ secret.Store = (*store)(nil)
