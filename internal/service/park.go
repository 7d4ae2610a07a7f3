package service

import "net/http"

// Parker is a response writer whose request has a place that others wait for, such as that of `admission`.
type Parker interface {
	// Park gives the place back until resume is called, which takes one again, whether or not there is room.
	// The time between counts as nothing that the app took.
	Park() (resume func())
}

// Park gives back the place of a request that waits for something to happen, if it has one. resume must
// be called before the response begins; more calls do nothing.
func Park(w http.ResponseWriter) (resume func()) {
	for w != nil {
		if p, ok := w.(Parker); ok {
			return p.Park()
		}
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			break
		}
		w = u.Unwrap()
	}
	return func() {}
}
