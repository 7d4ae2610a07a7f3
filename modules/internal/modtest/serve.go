package modtest

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
)

// asCommand makes a test binary the gateway's command line, see Main.
const asCommand = "GATEHOUSE_TEST_COMMAND"

// Main is a TestMain that lets the test binary be the gateway's command line, so that tests see real
// exit codes.
func Main(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		caddycmd.Main()
		return
	}
	os.Exit(m.Run())
}

// Command runs a command of the gateway, in a process of its own, and returns its output, its errors and
// its exit code. The package's TestMain must be Main.
func Command(t testing.TB, in string, args ...string) (out, errs string, code int) {
	t.Helper()
	cmd := Process(t, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(in), &stdout, &stderr
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
}

// Process is a command of the gateway for who starts it, as Command runs it.
func Process(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), asCommand+"=1", "XDG_CONFIG_HOME="+t.TempDir())
	return cmd
}

// FreePort is a port of loopback that nothing listens on.
func FreePort(t testing.TB) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// Serve runs the Caddyfile as this process's own configuration, with its admin endpoint and listeners,
// until the test ends or another one is served. It returns the configuration as JSON.
func Serve(t testing.TB, caddyfile string) (adapted []byte) {
	t.Helper()
	raw, err := Adapt(caddyfile)
	if err != nil {
		t.Fatal(err)
	}
	if err = caddy.Load(raw, true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = caddy.Stop() })
	return raw
}
