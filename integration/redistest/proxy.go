package redistest

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Proxy is a slow way to a server.
type Proxy struct {
	// Addr is where it listens.
	Addr string

	target string
	delay  atomic.Int64
	mu     sync.Mutex
	conns  map[net.Conn]bool
	closed bool
	work   sync.WaitGroup
}

// SlowProxy listens on a free port and passes on to addr, until the test ends. At first it delays nothing.
func SlowProxy(t testing.TB, addr string) *Proxy {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Addr: l.Addr().String(), target: addr, conns: map[net.Conn]bool{}}
	p.work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.work.Go(func() { p.serve(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		p.mu.Lock()
		p.closed = true
		for c := range p.conns {
			_ = c.Close()
		}
		p.mu.Unlock()
		p.work.Wait()
	})
	return p
}

// SetDelay makes each answer come so much later, those under way included.
func (p *Proxy) SetDelay(d time.Duration) { p.delay.Store(int64(d)) }

// URL is its address as the configuration has it.
func (p *Proxy) URL() string { return "redis://" + p.Addr }

func (p *Proxy) serve(client net.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	server, err := (&net.Dialer{}).DialContext(ctx, "tcp", p.target)
	cancel()
	if err != nil {
		_ = client.Close()
		return
	}
	if !p.add(client, server) {
		return
	}
	p.work.Go(func() {
		p.copy(server, client, func() time.Duration { return 0 })
		_, _ = client.Close(), server.Close()
	})
	p.copy(client, server, func() time.Duration { return time.Duration(p.delay.Load()) })
	_, _ = client.Close(), server.Close()
	p.mu.Lock()
	delete(p.conns, client)
	delete(p.conns, server)
	p.mu.Unlock()
}

func (p *Proxy) add(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		if p.closed {
			_ = c.Close()
			continue
		}
		p.conns[c] = true
	}
	return !p.closed
}

// copy passes on what comes, each piece after its delay, in order; pieces overlap.
func (p *Proxy) copy(to, from net.Conn, delay func() time.Duration) {
	type piece struct {
		at time.Time
		b  []byte
	}
	pieces := make(chan piece, 1024)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for x := range pieces {
			if wait := time.Until(x.at); wait > 0 {
				<-time.After(wait)
			}
			if _, err := to.Write(x.b); err != nil {
				_ = from.Close() // ends the reading
			}
		}
	}()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			pieces <- piece{time.Now().Add(delay()), append([]byte(nil), buf[:n]...)}
		}
		if err != nil {
			break
		}
	}
	close(pieces)
	<-done
}
