package objects

import (
	"errors"
	"net/http"
	"slices"
	"sync"
)

// Why an upload under way was ended.
var (
	errDeleted    = denied("The upload was deleted.")
	errSuperseded = &Error{http.StatusPreconditionFailed, "PreconditionFailed", "Another upload with this URL has begun since."}
)

// flight are the uploads under way, by key. One of a key ends those before it, whose clients have most
// likely lost their connections: a URL holds the room for one object and not for many. The deletion of a
// key ends all of it.
type flight struct {
	mu   sync.Mutex
	puts map[string][]*landing
}

// landing is one upload under way.
type landing struct {
	stop func() // never called after leave, when the connection may serve another request
	mu   sync.Mutex
	left bool
	why  *Error // it was ended; nil if it was not
}

func (f *flight) begin(key string, stop func()) *landing {
	l := &landing{stop: stop}
	f.mu.Lock()
	before := f.puts[key]
	f.puts[key] = append(slices.Clone(before), l)
	f.mu.Unlock()
	for _, old := range before {
		old.end(errSuperseded)
	}
	return l
}

func (f *flight) leave(key string, l *landing) {
	l.mu.Lock()
	l.left = true
	l.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	left := slices.DeleteFunc(slices.Clone(f.puts[key]), func(other *landing) bool { return other == l })
	if len(left) == 0 {
		delete(f.puts, key)
		return
	}
	f.puts[key] = left
}

// end tells the uploads of the key that it was deleted.
func (f *flight) end(key string) {
	f.mu.Lock()
	all := f.puts[key]
	f.mu.Unlock()
	for _, l := range all {
		l.end(errDeleted)
	}
}

func (l *landing) end(why *Error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.left || l.why == errDeleted {
		return
	}
	l.why = why
	l.stop()
}

// over says why the upload was ended, nil if it was not.
func (l *landing) over() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.why == nil {
		return nil
	}
	return l.why
}

func (l *landing) deleted() bool { return errors.Is(l.over(), errDeleted) }
