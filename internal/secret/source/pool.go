package source

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/secret"
)

// linger is how long a set lives on after its last user gave it back: a change of configuration
// takes it up again, and requests of the old one are still in flight.
const linger = 30 * time.Second

// storeLead is how long after a rotation the new version begins in a store that several instances
// read: each has polled by then, so none is asked about a version that it does not know.
const storeLead = 2 * defaultPoll

// pool holds the sets of a process.
type pool struct {
	linger time.Duration

	mu    sync.Mutex
	lives map[string]*live
}

// live is a set in the pool. Its fields are guarded by pool.mu.
type live struct {
	*keeper
	key   string
	ends  bool // with its last user, who closes what it is read from
	refs  int
	stop  context.CancelFunc // nil before the start
	ended chan struct{}      // closed when the watch has ended
	timer *time.Timer        // ends it, if refs is 0
}

var shared = &pool{linger: linger, lives: map[string]*live{}}

// Handle is one user's hold on a set.
type Handle struct {
	pool *pool
	live *live
	once sync.Once
}

// Open is the set of that name and source, shared with all who opened the same. A source on this
// machine is read at once, unless another has just read it and not started it yet, which reads it again; a
// remote one is not asked before Start. Nothing runs before Start. Whoever opened it closes it.
func Open(name string, s Source, log *slog.Logger) (*Handle, error) { return shared.open(name, s, log) }

func (p *pool) open(name string, s Source, log *slog.Logger) (*Handle, error) {
	wrong := &keeper{name: name, at: s.At}
	if err := s.Validate(); err != nil {
		return nil, wrong.located(err)
	}
	key, err := s.key()
	if err != nil {
		return nil, wrong.located(err)
	}
	h, err := p.hold(name, name+"\x00"+key, log, s.open)
	if err != nil {
		return nil, wrong.located(err)
	}
	if s.Env != "" {
		h.live.warn("it is in the environment variable " + s.Env + ", which other programs of this user may read and which cannot be rotated: keep it in a file, secret " + name + " file PATH")
	}
	if s.Remote() || s.Generate && missing(s.File) || p.toBeStarted(h.live) {
		return h, nil
	}
	if err = h.live.read(context.Background()); err != nil {
		h.Close()
		return nil, wrong.located(err)
	}
	return h, nil
}

// toBeStarted says that another has opened the set and read it, and nobody has started it.
func (p *pool) toBeStarted(l *live) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return l.refs > 1 && l.stop == nil && len(l.set.Versions()) > 0
}

// OpenFile is Open for a file that belongs to whoever opens it, such as a key in a data directory. The set
// does not live on after the last Close, which waits until the file is not watched any more.
func OpenFile(name, path string, log *slog.Logger) (*Handle, error) {
	h, err := shared.open(name, Source{File: path}, log)
	if err == nil {
		h.endWithLast()
	}
	return h, err
}

// OpenStore is Open for a set in a store that is none of the sources of this package; key identifies the
// store. It is read at once, within ctx. It does not live on after the last Close, which waits until the
// store is not read any more.
func OpenStore(ctx context.Context, name, key string, store secret.Store, log *slog.Logger) (*Handle, error) {
	h, err := shared.hold(name, "store\x00"+key+"\x00"+name, log, func() (*keeper, error) {
		return &keeper{kind: "database", fetch: store, poll: defaultPoll, lead: storeLead, remote: true}, nil
	})
	if err != nil {
		return nil, err
	}
	h.endWithLast()
	if err = h.live.read(ctx); err != nil {
		h.Close()
		return nil, h.live.located(err)
	}
	return h, nil
}

// endWithLast has the set end with its last user.
func (h *Handle) endWithLast() {
	h.pool.mu.Lock()
	defer h.pool.mu.Unlock()
	h.live.ends = true
}

// hold takes one more reference on the set of that key, which open makes if there is none.
func (p *pool) hold(name, key string, log *slog.Logger, open func() (*keeper, error)) (*Handle, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.lives[key]
	if l == nil {
		k, err := open()
		if err != nil {
			return nil, err
		}
		k.name = name
		k.set = secret.NewSet(name)
		k.set.Reread = k.reread
		l = &live{keeper: k, key: key}
		p.lives[key] = l
	}
	l.log.Store(log) // that of the configuration before may be closed soon
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
	l.refs++
	return &Handle{pool: p, live: l}, nil
}

// Set is the set. It changes with its source from Start on. A remote one, and a file that is to be made, is empty before that.
func (h *Handle) Set() *secret.Set { return h.live.set }

// Start begins to watch the source, if nobody has. A remote one is read now, and cannot be used if
// that fails, unless it has been read before; so is a file that is made now.
func (h *Handle) Start(ctx context.Context) error {
	k := h.live.keeper
	if k.made != "" && missing(k.made) {
		if err := makeFile(k.made); err != nil {
			return k.located(err)
		}
	}
	if (k.remote || k.made != "") && len(k.set.Versions()) == 0 {
		if err := k.read(ctx); err != nil {
			return k.located(err)
		}
	}
	if k.fixed {
		return nil
	}
	h.pool.mu.Lock()
	defer h.pool.mu.Unlock()
	if h.live.stop != nil || h.live.refs == 0 {
		return nil
	}
	var watch context.Context
	watch, h.live.stop = context.WithCancel(context.Background())
	ended := make(chan struct{})
	h.live.ended = ended
	go func() {
		defer close(ended)
		k.watch(watch)
	}()
	return nil
}

// Refresh reads the source on demand, see secret.Set.Refresh.
func (h *Handle) Refresh(ctx context.Context) error { return h.live.reread(ctx) }

// Close gives the set back. It is no longer kept up to date 30 s after the last one did; opened again
// before that it goes on.
func (h *Handle) Close() {
	h.once.Do(func() {
		p, l := h.pool, h.live
		p.mu.Lock()
		l.refs--
		last, ended := l.refs == 0, l.ended
		switch {
		case !last:
		case l.stop == nil: // it was only looked at, or never changes
			delete(p.lives, l.key)
		case l.ends:
			p.end(l)
		default:
			l.timer = time.AfterFunc(p.linger, func() { p.expire(l) })
		}
		p.mu.Unlock()
		if last && l.ends && ended != nil {
			<-ended
		}
	})
}

func (p *pool) expire(l *live) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.refs == 0 && p.lives[l.key] == l {
		p.end(l)
	}
}

// end ends the set; the caller holds p.mu.
func (p *pool) end(l *live) {
	delete(p.lives, l.key)
	l.stop()
}
