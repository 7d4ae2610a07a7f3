// Package redistest starts real Redis servers for tests: one, a Cluster, one behind Sentinel, and a
// slow way to one. They keep nothing, listen on free ports of loopback, and end with the test.
package redistest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gatehouse-proxy/gatehouse/integration/await"
)

// patience bounds every wait for a server.
const patience = 30 * time.Second

// Server is a redis-server, or a sentinel.
type Server struct {
	// Addr is its host:port.
	Addr string

	t       testing.TB
	program string
	args    []string
	dir     string

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{}
	log  bytes.Buffer
}

// Start starts a server, with more options such as "--maxmemory", "1mb", and waits until it answers.
func Start(t testing.TB, options ...string) *Server {
	t.Helper()
	s := newServer(t, "redis-server", append([]string{"--save", "", "--appendonly", "no", "--bind", "127.0.0.1"}, options...)...)
	s.Restart()
	return s
}

func newServer(t testing.TB, program string, args ...string) *Server {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Fatalf("%s is missing: run `make deps`, which installs it", program)
	}
	s := &Server{Addr: "127.0.0.1:" + strconv.Itoa(FreePort(t)), t: t, program: path, args: args, dir: t.TempDir()}
	t.Cleanup(s.Kill)
	return s
}

// FreePort is a port that nobody listens on, and whose number plus 10000, the bus of a Cluster's
// node, is a port as well.
func FreePort(t testing.TB) int {
	t.Helper()
	for {
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		_ = l.Close()
		if port < 55000 {
			return port
		}
	}
}

// URL is the server's address as the configuration has it.
func (s *Server) URL() string { return "redis://" + s.Addr }

// Port is the port alone.
func (s *Server) Port() string {
	_, port, _ := net.SplitHostPort(s.Addr)
	return port
}

// Restart starts the server, after Kill or for the first time, and waits until it answers.
func (s *Server) Restart() {
	s.t.Helper()
	s.launch()
	c := s.Client()
	await.For(s.t, s.Addr+" to answer", func() error {
		err := c.Ping(context.Background()).Err()
		if err != nil && strings.HasPrefix(err.Error(), "NOAUTH") { // which is an answer
			return nil
		}
		return err
	})
}

func (s *Server) launch() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	args := s.args
	if filepath.Base(s.program) == "redis-server" {
		args = append([]string{"--port", s.Port(), "--dir", s.dir}, args...)
	}
	s.cmd = exec.Command(s.program, args...) // ended by Kill, after the test's context
	s.cmd.Stdout, s.cmd.Stderr = &s.log, &s.log
	s.cmd.Dir = s.dir
	if err := s.cmd.Start(); err != nil {
		s.t.Fatalf("starting %s: %v", s.program, err)
	}
	done := make(chan struct{})
	s.done = done
	go func(cmd *exec.Cmd) {
		defer close(done)
		_ = cmd.Wait() // it is killed
	}(s.cmd)
}

// Kill ends the server at once, as kill -9 does, and waits until it is gone.
func (s *Server) Kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill() // it may be gone
	<-s.done
	s.cmd = nil
	if s.t.Failed() {
		s.t.Logf("%s on %s said:\n%s", filepath.Base(s.program), s.Addr, tail(s.log.Bytes()))
	}
	s.log.Reset()
}

func tail(b []byte) []byte { return b[max(0, len(b)-2000):] }

// Stop freezes the server: it accepts connections and answers nothing.
func (s *Server) Stop() { s.signal(syscall.SIGSTOP) }

// Cont ends Stop.
func (s *Server) Cont() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatalf("signalling %s: %v", s.Addr, err)
	}
}

var silence = sync.OnceFunc(func() { redis.SetLogger(quiet{}) })

// quiet drops the driver's own log.
type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

// Client speaks to the server until the test ends.
func (s *Server) Client() *redis.Client {
	silence()
	c := redis.NewClient(&redis.Options{Addr: s.Addr, Protocol: 2, DialerRetries: 1, MaxRetries: -1, DialTimeout: time.Second, ReadTimeout: 5 * time.Second})
	s.t.Cleanup(func() { _ = c.Close() })
	return c
}

// Cluster is three masters, with a replica each.
type Cluster struct {
	Masters, Replicas []*Server
}

// StartCluster starts a Cluster that promotes a replica about 1 s after its master is gone. A key
// of any slot can be written when it returns.
func StartCluster(t testing.TB) *Cluster {
	t.Helper()
	c := &Cluster{}
	for i := range 6 {
		s := Start(t, "--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-replica-validity-factor", "0")
		if i < 3 {
			c.Masters = append(c.Masters, s)
		} else {
			c.Replicas = append(c.Replicas, s)
		}
	}
	ctx := t.Context()
	ids := make([]string, 3)
	for i, s := range c.Masters {
		first, last := i*16384/3, (i+1)*16384/3-1
		must(t, s.Client().ClusterAddSlotsRange(ctx, first, last).Err())
		must(t, s.Client().Do(ctx, "cluster", "set-config-epoch", i+1).Err())
		id, err := s.Client().ClusterMyID(ctx).Result()
		must(t, err)
		ids[i] = id
	}
	all := append(append([]*Server{}, c.Masters...), c.Replicas...)
	for _, s := range all[1:] {
		must(t, s.Client().ClusterMeet(ctx, "127.0.0.1", all[0].Port()).Err())
	}
	for i, s := range c.Replicas {
		client := s.Client()
		await.For(t, "the replica to know its master", func() error { return client.ClusterReplicate(ctx, ids[i]).Err() })
	}
	for _, s := range all {
		client := s.Client()
		await.For(t, "the Cluster to agree", func() error {
			info, err := client.ClusterInfo(ctx).Result()
			if err == nil && !bytes.Contains([]byte(info), []byte("cluster_state:ok")) {
				err = fmt.Errorf("%s", info)
			}
			return err
		})
	}
	for _, s := range c.Replicas {
		awaitReplica(t, s)
	}
	return c
}

// AwaitFailover waits until the replicas of the lost masters are promoted and every other server knows it.
func (c *Cluster) AwaitFailover(t testing.TB, lost ...int) {
	t.Helper()
	var live []*Server
	for i, s := range c.Masters {
		if !slices.Contains(lost, i) {
			live = append(live, s)
		}
	}
	live = append(live, c.Replicas...)
	for _, i := range lost {
		AwaitMaster(t, c.Replicas[i])
		for _, s := range live {
			client := s.Client()
			await.For(t, s.Addr+" to know the new master", func() error { return knows(client, c.Replicas[i]) })
		}
	}
}

// knows says whether a server of a Cluster takes another for a master, and the Cluster for whole.
func knows(client *redis.Client, master *Server) error {
	ctx := context.Background()
	info, err := client.ClusterInfo(ctx).Result()
	if err == nil && !strings.Contains(info, "cluster_state:ok") {
		err = fmt.Errorf("%s", info)
	}
	if err != nil {
		return err
	}
	shards, err := client.ClusterShards(ctx).Result()
	if err != nil {
		return err
	}
	for _, shard := range shards {
		for _, n := range shard.Nodes {
			if n.Role == "master" && strconv.FormatInt(n.Port, 10) == master.Port() && len(shard.Slots) > 0 {
				return nil
			}
		}
	}
	return fmt.Errorf("it knows %v", shards)
}

// URLs are the addresses of the masters as the configuration has them.
func (c *Cluster) URLs() []string {
	var urls []string
	for _, s := range c.Masters {
		urls = append(urls, s.URL())
	}
	return urls
}

// Sentinel is a master with a replica, watched by three sentinels.
type Sentinel struct {
	// Name is the master's name.
	Name            string
	Master, Replica *Server
	Sentinels       []*Server
}

// StartSentinel starts them. The replica is promoted about 1 s after the master is gone.
func StartSentinel(t testing.TB) *Sentinel {
	t.Helper()
	s := &Sentinel{Name: "mymaster", Master: Start(t)}
	s.Replica = Start(t, "--replicaof", "127.0.0.1 "+s.Master.Port())
	awaitReplica(t, s.Replica)
	for range 3 {
		sentinel := newServer(t, "redis-sentinel")
		file := filepath.Join(sentinel.dir, "sentinel.conf")
		conf := fmt.Sprintf("port %s\nbind 127.0.0.1\ndir %s\nsentinel monitor %s 127.0.0.1 %s 2\nsentinel down-after-milliseconds %s 1000\nsentinel failover-timeout %s 3000\n",
			sentinel.Port(), sentinel.dir, s.Name, s.Master.Port(), s.Name, s.Name)
		must(t, os.WriteFile(file, []byte(conf), 0o600))
		sentinel.args = []string{file}
		sentinel.Restart()
		s.Sentinels = append(s.Sentinels, sentinel)
	}
	for _, sentinel := range s.Sentinels {
		client := redis.NewSentinelClient(&redis.Options{Addr: sentinel.Addr, Protocol: 2})
		t.Cleanup(func() { _ = client.Close() })
		await.For(t, "the sentinels to know each other and the replica", func() error {
			master, err := client.Master(t.Context(), s.Name).Result()
			if err == nil && (master["num-other-sentinels"] != "2" || master["num-slaves"] != "1") {
				err = fmt.Errorf("the master has %s other sentinels and %s replicas", master["num-other-sentinels"], master["num-slaves"])
			}
			return err
		})
	}
	return s
}

// Addrs are the sentinels' host:port.
func (s *Sentinel) Addrs() []string {
	var addrs []string
	for _, sentinel := range s.Sentinels {
		addrs = append(addrs, sentinel.Addr)
	}
	return addrs
}

// AwaitMaster waits until the server has been promoted.
func AwaitMaster(t testing.TB, s *Server) {
	t.Helper()
	client := s.Client()
	await.For(t, s.Addr+" to be promoted", func() error {
		role, err := client.Do(context.Background(), "role").Slice()
		if err == nil && role[0] != "master" {
			err = fmt.Errorf("it is a %v", role[0])
		}
		return err
	})
}

func awaitReplica(t testing.TB, s *Server) {
	t.Helper()
	client := s.Client()
	await.For(t, s.Addr+" to be in step with its master", func() error {
		role, err := client.Do(context.Background(), "role").Slice()
		if err == nil && (role[0] != "slave" || role[3] != "connected") {
			err = fmt.Errorf("its role is %v", role)
		}
		return err
	})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
