package vault

import (
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/gatehouse-proxy/gatehouse/internal/secret/remote"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

const (
	addressVariable     = "VAULT_ADDR"
	defaultField        = "value"
	defaultAppRole      = "approle"
	defaultKubernetes   = "kubernetes"
	defaultAccountToken = "/var/run/secrets/kubernetes.io/serviceaccount/token" //nolint:gosec // the path of a token
)

// Config says where in Vault a set is kept, and how to log in. It holds no secret, only paths of files
// that do.
type Config struct {
	// Address is the URL of Vault: https, or http on this machine. Default: the environment variable
	// VAULT_ADDR.
	Address string `json:"address,omitempty"`
	// Namespace is the namespace of Vault Enterprise in which the engine and the login method are.
	Namespace string `json:"namespace,omitempty"`
	// Path is MOUNT/PATH: the mount of a key-value store of version 2 and the path of the secret in it,
	// without the data/ of the HTTP API. Required.
	Path string `json:"path"`
	// Mount is the mount in Path, if it has a slash. Default: the part of Path before its first slash.
	Mount string `json:"mount,omitempty"`
	// Field is the field of the secret that holds the value or the versions document. Default: value.
	Field string `json:"field,omitempty"`
	// Auth is how to log in. Required.
	Auth `json:"auth"`
	// CA is the path of a PEM file with the certificates that Vault's must be signed by. Default: the
	// system's.
	CA string `json:"ca,omitempty"`
	// Overlap is how long a version goes on verifying after the next was written. Default: 0, the current
	// version alone is valid.
	Overlap unit.Duration `json:"-"`
}

// Auth is how to log in: exactly one of its fields is set.
type Auth struct {
	// AppRole logs in with a role ID and a secret ID.
	AppRole *AppRole `json:"approle,omitempty"`
	// Kubernetes logs in with the token of the pod's service account.
	Kubernetes *Kubernetes `json:"kubernetes,omitempty"`
	// TokenFile is the path of a file with a token, which somebody else keeps alive, such as Vault Agent.
	// It is read before each request.
	TokenFile string `json:"token_file,omitempty"`
}

// AppRole is the auth method approle. Its files are read at each login.
type AppRole struct {
	// RoleIDFile is the path of a file with the role ID. Required.
	RoleIDFile string `json:"role_id_file"`
	// SecretIDFile is the path of a file with the secret ID, which must be usable more than once. Required.
	SecretIDFile string `json:"secret_id_file"`
	// Mount is where the method is enabled, below auth/. Default: approle.
	Mount string `json:"mount,omitempty"`
}

// Kubernetes is the auth method kubernetes. Its file is read at each login.
type Kubernetes struct {
	// Role is the role of the method. Required.
	Role string `json:"role"`
	// Mount is where the method is enabled, below auth/. Default: kubernetes.
	Mount string `json:"mount,omitempty"`
	// TokenFile is the path of a file with the service account's token. Default:
	// /var/run/secrets/kubernetes.io/serviceaccount/token.
	TokenFile string `json:"token_file,omitempty"`
}

// Validate says what is wrong with the settings. It reads no file and no variable.
func (c Config) Validate() error {
	if c.Address != "" {
		if err := remote.CheckURL("address", c.Address); err != nil {
			return err
		}
	}
	mount, path := c.split()
	switch {
	case c.Mount != "" && (path == "" || !clean(c.Path)):
		return fmt.Errorf("path must be the mount %.80q and what follows it, such as %.80s/gatehouse/jwt, not %.200q", c.Mount, c.Mount, c.Path)
	case mount == "" || path == "" || !clean(c.Path):
		return fmt.Errorf("path must be MOUNT/PATH, such as secret/gatehouse/jwt, not %.200q", c.Path)
	case c.Namespace != "" && !clean(strings.Trim(c.Namespace, "/")):
		return fmt.Errorf("namespace must be one line such as admin/team, not %.200q", c.Namespace)
	}
	return c.validLogin()
}

// split is the mount and the path in it, which is empty if there is none.
func (c Config) split() (mount, path string) {
	if c.Mount == "" {
		mount, path, _ = strings.Cut(c.Path, "/")
		return mount, path
	}
	path, ok := strings.CutPrefix(c.Path, c.Mount+"/")
	if !ok {
		path = ""
	}
	return c.Mount, path
}

func (a Auth) validLogin() error {
	var given []string
	if a.AppRole != nil {
		given = append(given, "approle")
	}
	if a.Kubernetes != nil {
		given = append(given, "kubernetes")
	}
	if a.TokenFile != "" {
		given = append(given, "token_file")
	}
	switch {
	case len(given) == 0:
		return errors.New("no way to log in to Vault: give approle, kubernetes or token_file with auth")
	case len(given) > 1:
		return fmt.Errorf("give one way to log in to Vault, not both %s and %s", given[0], given[1])
	case a.AppRole != nil && (a.AppRole.RoleIDFile == "" || a.AppRole.SecretIDFile == ""):
		return errors.New("approle needs role_id_file and secret_id_file")
	case a.AppRole != nil:
		return validMount("approle", a.AppRole.Mount)
	case a.Kubernetes != nil && a.Kubernetes.Role == "":
		return errors.New("kubernetes needs role, the name of its role in Vault")
	case a.Kubernetes != nil:
		return validMount("kubernetes", a.Kubernetes.Mount)
	}
	return nil
}

func validMount(method, mount string) error {
	if mount != "" && (!clean(mount) || strings.HasPrefix(mount, "auth/")) {
		return fmt.Errorf("the mount of %s is a path without auth/ before it, such as %s, not %.80q", method, method, mount)
	}
	return nil
}

// clean says whether s is a path with no empty part, none that leads elsewhere, and nothing that
// cannot be seen.
func clean(s string) bool {
	for part := range strings.SplitSeq(s, "/") {
		if part == "" || part == "." || part == ".." {
			return false
		}
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

func or(s, instead string) string {
	if s == "" {
		return instead
	}
	return s
}
