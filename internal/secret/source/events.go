package source

import (
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/fsnotify/fsnotify"
)

// events tells the watchers of a process of changes in their directories. All share one instance of
// the system's, of which there are few for all processes of a user (128 on Linux). Where there is none
// left, the polls see the changes.
var events = &hub{watchers: map[*watcher]bool{}}

type hub struct {
	changing sync.Mutex        // one follow or leave at a time; guards fs
	fs       *fsnotify.Watcher // nil while there are no watchers

	// mu is not held during a call of fs, which may itself wait until its events are taken.
	mu       sync.Mutex
	watchers map[*watcher]bool
}

// watcher is who wants to know of the changes of one source.
type watcher struct {
	k       *keeper
	changed chan struct{}       // has one element after a change
	places  map[string][]string // guarded by hub.mu, as places gives them
}

// follow watches the directories that w's source is in now. One that was replaced is watched anew.
func (h *hub) follow(w *watcher) {
	if w.k.places == nil {
		return
	}
	places := w.k.places()
	h.changing.Lock()
	defer h.changing.Unlock()
	if h.fs == nil {
		fs, err := fsnotify.NewWatcher()
		if err != nil {
			w.k.unwatched("", err)
			return
		}
		h.fs = fs
		go h.deliver(fs)
	}
	h.mu.Lock()
	before := w.places
	w.places, h.watchers[w] = places, true
	h.mu.Unlock()
	h.forget(before)
	for dir := range places {
		if err := h.fs.Add(dir); err != nil {
			w.k.unwatched(dir, err)
		}
	}
}

// leave ends the watching for w.
func (h *hub) leave(w *watcher) {
	h.changing.Lock()
	defer h.changing.Unlock()
	h.mu.Lock()
	was := h.watchers[w]
	delete(h.watchers, w)
	last := len(h.watchers) == 0
	h.mu.Unlock()
	if !was {
		return
	}
	h.forget(w.places)
	if last {
		_ = h.fs.Close() // nothing is read any more
		h.fs = nil
	}
}

// forget ends the watching of directories that no watcher wants; the caller holds h.changing.
func (h *hub) forget(places map[string][]string) {
	for dir := range places {
		if !h.wanted(dir) {
			_ = h.fs.Remove(dir) // it may be gone
		}
	}
}

func (h *hub) wanted(dir string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.watchers {
		if _, ok := w.places[dir]; ok {
			return true
		}
	}
	return false
}

// deliver tells the watchers of events until fs is closed.
func (h *hub) deliver(fs *fsnotify.Watcher) {
	for {
		select {
		case e, ok := <-fs.Events:
			if !ok {
				return
			}
			h.tell(func(w *watcher) bool { return w.matters(e.Name) })
		case _, ok := <-fs.Errors: // events may be lost
			if !ok {
				return
			}
			h.tell(func(*watcher) bool { return true })
		}
	}
}

func (h *hub) tell(whom func(*watcher) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.watchers {
		if !whom(w) {
			continue
		}
		select {
		case w.changed <- struct{}{}:
		default: // it is told already
		}
	}
}

// matters says whether an event of that path may be a change of the source.
func (w *watcher) matters(path string) bool {
	dir, name := filepath.Split(path)
	names, ok := w.places[filepath.Clean(dir)]
	if !ok {
		_, ok = w.places[path] // the directory itself has gone
		return ok
	}
	if names == nil {
		return name == kubeLink || !strings.HasPrefix(name, ".")
	}
	return slices.Contains(names, name)
}

// unwatched logs once that a directory, or none at all, can be watched.
func (k *keeper) unwatched(dir string, err error) {
	if k.first("watch " + dir) {
		k.log.Load().Warn("the files of a secret cannot be watched, changes are seen by polls alone", "secret", k.name, "directory", dir, "poll", k.poll.String(), "error", err)
	}
}
