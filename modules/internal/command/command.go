// Package command is what our commands have in common: exit codes, errors as text or JSON, and how
// they talk to a running gateway.
package command

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// The exit codes besides 0 for done and 1 for failed.
const (
	ExitUsage    = 2 // called in a wrong way
	ExitNoAnswer = 3 // no gateway at the address
)

// failure is an error with its exit code.
type failure struct {
	error
	code int
}

func (f failure) Unwrap() error { return f.error }

// Usage is err as one of a command that was called in a wrong way.
func Usage(err error) error { return failure{err, ExitUsage} }

// NoAnswer is err as one of a command that no gateway answers.
func NoAnswer(err error) error { return failure{err, ExitNoAnswer} }

// Coded is err with an exit code of the command's own, from 2 on.
func Coded(err error, code int) error { return failure{err, code} }

// Quit returns what makes Caddy's main exit with code, and prints nothing.
func Quit(cmd *cobra.Command, code int) error {
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	if code == 1 {
		return errors.New("the exit code is 1")
	}
	return caddycmd.WrapCommandFuncForCobra(func(caddycmd.Flags) (int, error) { return code, nil })(cmd, nil)
}

// Code is the exit code of err.
func Code(err error) int {
	if f, ok := errors.AsType[failure](err); ok {
		return f.code
	}
	return 1
}

// Fail prints err on the standard error and returns what makes Caddy's main exit with its code.
func Fail(cmd *cobra.Command, asJSON bool, err error) error {
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	if asJSON {
		_ = json.NewEncoder(cmd.ErrOrStderr()).Encode(map[string]string{"error": err.Error()}) //nolint:errchkjson // nowhere is left to complain
	} else {
		_, _ = fmt.Fprintln(cmd.ErrOrStderr(), "gatehouse: "+err.Error())
	}
	if f, ok := errors.AsType[failure](err); ok {
		return Quit(cmd, f.code)
	}
	return err
}

// WrongArguments is the error of a command that was given that many arguments.
func WrongArguments(cmd *cobra.Command, n int) error {
	return Usage(fmt.Errorf("got %d arguments, usage: gatehouse %s", n, strings.TrimPrefix(cmd.UseLine(), cmd.Root().Name()+" ")))
}

// maxCommand is more than the length of a command's name.
const maxCommand = 20

// Group makes cmd a command that only has others below it. It does not repeat a word that is too long to
// be meant as one of them.
func Group(cmd *cobra.Command, asJSON *bool, commands ...*cobra.Command) {
	cmd.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return Fail(c, *asJSON, Usage(err)) })
	cmd.AddCommand(commands...)
	cmd.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return c.Help()
		}
		if len(args[0]) > maxCommand { // a secret may have been pasted
			return Fail(c, *asJSON, Usage(fmt.Errorf("there is no such command below %[1]s, see gatehouse %[1]s --help", path(c))))
		}
		return Fail(c, *asJSON, Usage(fmt.Errorf("there is no command %s %s", path(c), args[0])))
	}
}

// path is a command with those that it is below, as it is typed after gatehouse.
func path(c *cobra.Command) string {
	return strings.TrimPrefix(c.CommandPath(), c.Root().Name()+" ")
}

// Admin is the admin endpoint of a running gateway, as flags say.
type Admin struct {
	// At is its address, Config a file to read it from, and Adapter the adapter of that.
	At, Config, Adapter string
}

// Flags adds the flags.
func (a *Admin) Flags(f *pflag.FlagSet) {
	f.StringVar(&a.At, "address", "", "the address of the admin endpoint (default as in --config, or localhost:2019)")
	f.StringVar(&a.Config, "config", "", "the gateway's configuration, to read the address of its admin endpoint from")
	f.StringVar(&a.Adapter, "adapter", "", "the adapter of --config, such as caddyfile; known from the file's name where it is a Caddyfile")
}

// Address is where the gateway is asked.
func (a *Admin) Address() (string, error) {
	address, err := caddycmd.DetermineAdminAPIAddress(a.At, nil, a.Config, a.Adapter)
	if err != nil {
		return "", Usage(fmt.Errorf("--config: %w", err))
	}
	return address, nil
}

// Get is the answer to a GET. It has no deadline: who waits in front of it can end it.
func (a *Admin) Get(uri string) (io.ReadCloser, error) { return a.do(http.MethodGet, uri, nil) }

// Call sends body as JSON, if there is one, and reads the answer into answer, unless that is nil.
func (a *Admin) Call(method, uri string, body, answer any) error {
	var raw []byte
	if body != nil {
		var err error
		if raw, err = json.Marshal(body); err != nil {
			return fmt.Errorf("encoding the request: %w", err)
		}
	}
	got, err := a.do(method, uri, raw)
	if err != nil {
		return err
	}
	defer func() { _ = got.Close() }()
	if answer == nil {
		return nil
	}
	if err = json.NewDecoder(got).Decode(answer); err != nil {
		return fmt.Errorf("the gateway's answer cannot be read, it may be of another version: %w", err)
	}
	return nil
}

func (a *Admin) do(method, uri string, body []byte) (io.ReadCloser, error) {
	address, err := a.Address()
	if err != nil {
		return nil, err
	}
	header := http.Header{}
	if body != nil {
		header.Set("Content-Type", "application/json")
	}
	resp, err := caddycmd.AdminAPIRequest(address, method, uri, header, bytes.NewReader(body))
	if err != nil {
		text, answered := strings.CutPrefix(err.Error(), "caddy responded with error: ")
		switch {
		case strings.HasPrefix(err.Error(), "invalid admin address"):
			return nil, Usage(fmt.Errorf("--address: %w; write it as localhost:2019 or unix//run/gatehouse.sock", err))
		case !answered:
			return nil, failure{fmt.Errorf("no gateway answers at %s, start it, or name the address of its admin endpoint with --address or its configuration with --config: %w", address, err), ExitNoAnswer}
		}
		return nil, errors.New("the gateway at " + address + " refused: " + detail(text))
	}
	return resp.Body, nil
}

// detail is what an answer says in words: the detail of a problem, or all of it.
func detail(answer string) string {
	if i := strings.IndexByte(answer, '{'); i >= 0 {
		var doc struct{ Detail, Title, Error string }
		if json.Unmarshal([]byte(answer[i:]), &doc) == nil {
			for _, s := range []string{doc.Detail, doc.Error, doc.Title} {
				if s != "" {
					return s
				}
			}
		}
	}
	return strings.TrimSpace(answer)
}
