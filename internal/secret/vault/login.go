package vault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

const maxCredential = 64 << 10

// login is one way to a token.
type login struct {
	name  string
	mount string
	// body are the credentials, read anew; nil where the token is in a file.
	body func() (map[string]string, error)
	file string
	// refused says what to do about a login that Vault refuses.
	refused string
}

func (c Config) login() login {
	switch {
	case c.AppRole != nil:
		a := *c.AppRole
		return login{
			name: "approle", mount: or(a.Mount, defaultAppRole),
			body: func() (map[string]string, error) {
				return readAll(map[string]string{"role_id": a.RoleIDFile, "secret_id": a.SecretIDFile})
			},
			refused: "the role id or the secret id is wrong or has ended: write a new secret id into " + a.SecretIDFile + ", and check the mount and the namespace",
		}
	case c.Kubernetes != nil:
		k := *c.Kubernetes
		return login{
			name: "kubernetes", mount: or(k.Mount, defaultKubernetes),
			body: func() (map[string]string, error) {
				body, err := readAll(map[string]string{"jwt": or(k.TokenFile, defaultAccountToken)})
				if err == nil {
					body["role"] = k.Role
				}
				return body, err
			},
			refused: fmt.Sprintf("the service account may not log in as %.80q: check bound_service_account_names, bound_service_account_namespaces and audience of the role, and the mount", k.Role),
		}
	}
	return login{name: "token_file", file: c.TokenFile}
}

// logIn sees to it that there is a token, and says whether it was asked for just now.
func (s *store) logIn(ctx context.Context) (fresh bool, err error) {
	if s.login.file != "" {
		token, err := readCredential("token_file", s.login.file)
		fresh, s.token = s.token != token, token
		return fresh, err
	}
	if s.token != "" && (s.expires.IsZero() || s.now().Before(s.expires)) {
		return false, nil
	}
	s.token = ""
	body, err := s.login.body()
	if err != nil {
		return false, err
	}
	var got struct {
		Auth struct {
			ClientToken   string `json:"client_token"`
			LeaseDuration int64  `json:"lease_duration"` // seconds; 0 is for ever
		} `json:"auth"`
	}
	began := s.now()
	err = s.call(ctx, http.MethodPost, "auth/"+segments(s.login.mount)+"/login", "", body, &got)
	if err != nil {
		return false, fmt.Errorf("logging in to Vault by %s at auth/%s: %w", s.login.name, s.login.mount, s.login.explain(err))
	}
	if got.Auth.ClientToken == "" {
		return false, fmt.Errorf("logging in to Vault by %s at auth/%s: the answer has no token, check that the method is of this kind", s.login.name, s.login.mount)
	}
	s.token, s.expires = got.Auth.ClientToken, time.Time{}
	if lease := time.Duration(got.Auth.LeaseDuration) * time.Second; lease > 0 {
		s.expires = began.Add(time.Duration(float64(lease) * fractionOfLeaseSpent))
	}
	return true, nil
}

// explain says what to do about an answer to a login. It is no longer an *answer: that would be one
// about the secret.
func (l login) explain(err error) error {
	a, ok := errors.AsType[*answer](err)
	if !ok {
		return err
	}
	switch a.status {
	case http.StatusBadRequest, http.StatusForbidden, http.StatusUnauthorized:
		err = a.say(l.refused)
	case http.StatusNotFound:
		err = a.say("no login method is mounted there: name its mount, and check the namespace")
	default:
		err = a.advise()
	}
	return errors.New(err.Error())
}

func readAll(files map[string]string) (map[string]string, error) {
	body := map[string]string{}
	for name, path := range files {
		v, err := readCredential(name, path)
		if err != nil {
			return nil, err
		}
		body[name] = v
	}
	return body, nil
}

// readCredential reads a file that holds one credential; blanks around it are no part of it.
func readCredential(what, path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("the %s for Vault cannot be read: %w", what, err)
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, maxCredential+1))
	b = bytes.TrimSpace(b)
	switch {
	case err != nil:
		return "", fmt.Errorf("the %s for Vault cannot be read: %w", what, err)
	case len(b) == 0:
		return "", fmt.Errorf("the %s for Vault is empty: write it into %s", what, path)
	case len(b) > maxCredential:
		return "", fmt.Errorf("the %s for Vault is too large: %s is no file with one", what, path)
	case bytes.ContainsFunc(b, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		return "", fmt.Errorf("the %s for Vault must be one word: %s holds something else", what, path)
	}
	return string(b), nil
}
