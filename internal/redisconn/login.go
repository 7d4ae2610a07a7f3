package redisconn

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gatehouse-proxy/gatehouse/internal/secret"
)

type dialFunc = func(ctx context.Context, network, addr string) (net.Conn, error)

// serverNetwork stands for tcp where the driver dials what is behind the sentinels: it dials these and
// the sentinels by the same function.
const serverNetwork = "tcp of a server"

// serverDials is the hook that marks such dials: sentinels are dialled without the client's hooks.
type serverDials struct{}

// DialHook marks the dial.
func (serverDials) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, _, addr string) (net.Conn, error) { return next(ctx, serverNetwork, addr) }
}

// ProcessHook changes nothing.
func (serverDials) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

// ProcessPipelineHook changes nothing.
func (serverDials) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// login logs new connections in with the passwords of secret sets, see secret.Set.Login. Connections that
// are open stay logged in.
type login struct {
	user string
	sets passwords
}

// dialer is dial with the login after it.
func (l login) dialer(o *redis.UniversalOptions, dial dialFunc) dialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		user, set := l.user, l.sets.server
		if o.MasterName != "" && network != serverNetwork {
			user, set = "", l.sets.sentinel
		}
		if network == serverNetwork {
			network = "tcp"
		}
		conn, err := dial(ctx, network, addr)
		if err != nil || set == nil {
			return conn, err
		}
		if _, down := conn.(failed); down {
			return conn, nil
		}
		if err = authenticate(ctx, conn, user, set); err != nil {
			_ = conn.Close()
			return failed{err}, nil //nolint:nilerr // the connection's first use gives it, see dialer
		}
		return conn, nil
	}
}

// errRefused is the answer to a wrong password.
var errRefused = errors.New("the password was refused")

func authenticate(ctx context.Context, conn net.Conn, user string, set *secret.Set) error {
	err := set.Login(ctx, func(v secret.Version) error { return auth(ctx, conn, user, v) },
		func(err error) bool { return errors.Is(err, errRefused) })
	none, ok := errors.AsType[*secret.NotTakenError](err)
	switch {
	case !ok:
		return err
	case none.Refusal == nil:
		return errors.Join(fmt.Errorf("redis: the secret %s holds no password that is active", set.Name), none.Reread)
	}
	return errors.Join(fmt.Errorf("redis refuses every active version of the secret %s, correct it there or in redis: %w", set.Name, errRefused), none.Reread)
}

// auth sends one AUTH and reads the answer.
func auth(ctx context.Context, conn net.Conn, user string, v secret.Version) error {
	deadline := time.Now().Add(ioTimeout)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := conn.SetDeadline(deadline); err != nil {
		return fmt.Errorf("logging in to redis: %w", err)
	}
	args := []string{"AUTH", string(v.Value.Reveal())}
	if user != "" {
		args = []string{"AUTH", user, string(v.Value.Reveal())}
	}
	command := []byte("*" + strconv.Itoa(len(args)) + "\r\n")
	for _, a := range args {
		command = fmt.Appendf(command, "$%d\r\n%s\r\n", len(a), a)
	}
	if _, err := conn.Write(command); err != nil {
		return fmt.Errorf("logging in to redis: %w", err)
	}
	// Nothing follows the answer, so nothing that the driver reads later is buffered here.
	answer, err := bufio.NewReaderSize(conn, 1024).ReadString('\n')
	if err != nil {
		return fmt.Errorf("logging in to redis: %w", err)
	}
	answer = strings.TrimSpace(answer)
	switch {
	case answer == "+OK":
		v.Used(time.Now())
	case strings.Contains(answer, "without any password configured"): // everybody may come in
	case strings.HasPrefix(answer, "-WRONGPASS"), strings.HasPrefix(answer, "-NOAUTH"), strings.HasPrefix(answer, "-ERR invalid password"):
		return errRefused
	default:
		code, _, _ := strings.Cut(answer, " ") // what follows may repeat the password
		return fmt.Errorf("logging in to redis: it answers %.20q", code)
	}
	if err = conn.SetDeadline(time.Time{}); err != nil {
		return fmt.Errorf("logging in to redis: %w", err)
	}
	return nil
}
