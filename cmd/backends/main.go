// Command backends runs the bundled backends without Caddy, for a gateway that reaches them by
// reverse_proxy. One binary, many targets: `backends --config FILE uploads jobs` runs these two.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/body"
	"github.com/gatehouse-proxy/gatehouse/internal/egress"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

// graceTime is how long requests in flight may take when the process ends. Running jobs are drained meanwhile.
const graceTime = 25 * time.Second

func main() {
	if err := run(os.Args[1:]); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			_, _ = fmt.Fprintln(os.Stderr, "backends:", err)
		}
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("backends", flag.ContinueOnError)
	file := flags.String("config", "", "JSON file with listen, data_dir, database, region, secrets and backends; without it the defaults hold")
	flags.Usage = func() {
		_, _ = fmt.Fprintf(flags.Output(), "usage: backends [--config FILE] NAME...\n\nNAME is one of: %s\n\n", strings.Join(names(), ", "))
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() == 0 {
		flags.Usage()
		return errors.New("name at least one backend to run")
	}
	cfg, err := load(*file)
	if err != nil {
		return err
	}
	for _, name := range flags.Args() {
		if !slices.Contains(names(), name) {
			return fmt.Errorf("unknown backend %q, known are: %s", name, strings.Join(names(), ", "))
		}
	}
	return serve(cfg, flags.Args())
}

// serve opens the backends, answers until SIGINT or SIGTERM, and drains.
func serve(cfg config, wanted []string) error {
	service.TuneGC()
	body.SetMax(int64(cfg.BodyMemory))
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", cfg.Listen)
	if err != nil {
		return fmt.Errorf("listening on %s: %w; stop what uses the port or choose another with \"listen\"", cfg.Listen, err)
	}
	quiet, err := guard(cfg, listener.Addr())
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	defer quiet()
	host, err := service.NewHost(ctx, cfg.Settings, log, cfg.opener)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	if err = host.Open(ctx, wanted...); err != nil {
		return errors.Join(err, host.Close(), listener.Close())
	}
	mux, err := routes(host, wanted)
	if err != nil {
		return errors.Join(err, host.Close(), listener.Close())
	}
	// The headers may be larger than the gateway lets in (16 KiB), as it adds some of its own.
	srv := &http.Server{Handler: drain(mux), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(listener) }()
	log.Info("serving", "address", listener.Addr().String(), "backends", wanted)
	select {
	case err = <-done:
		return errors.Join(err, host.Close())
	case <-ctx.Done():
	}
	stop() // a second signal ends the process at once
	host.StopWork()
	grace, cancel := context.WithTimeout(context.Background(), graceTime)
	defer cancel()
	if err = srv.Shutdown(grace); err != nil {
		err = errors.Join(fmt.Errorf("requests were still in flight after %s: %w", graceTime, err), srv.Close())
	}
	return errors.Join(err, host.Close())
}

// guard keeps what users can name away from this process, which believes who calls, and from the gateway.
func guard(cfg config, address net.Addr) (release func(), err error) {
	own, err := egress.ParseListener(address.String())
	if err != nil {
		return nil, err
	}
	own.Never = true
	gateway, err := cfg.gateway()
	if err != nil {
		return nil, err
	}
	return egress.Listen(append(gateway, own)), nil
}
