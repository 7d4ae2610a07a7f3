package jobs

import (
	"errors"
	"fmt"
	"net/url"

	"github.com/gatehouse-proxy/gatehouse/internal/egress"
)

const maxTarget = 2048

// parseTarget reads the URL that a job is pushed to.
func parseTarget(s string) (*url.URL, error) {
	if len(s) > maxTarget {
		return nil, fmt.Errorf("is longer than %d bytes, shorten the URL", maxTarget)
	}
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%q is not a URL: write one such as http://127.0.0.1:3000/tasks", s)
	case u.Scheme != "http" && u.Scheme != "https", u.Hostname() == "":
		return nil, fmt.Errorf("%q must be an absolute http or https URL, such as http://127.0.0.1:3000/tasks", s)
	case u.User != nil:
		return nil, errors.New("must not hold a user name or password: the signature is what authenticates a push")
	}
	if _, err = egress.PlaceOf(u); err != nil {
		return nil, fmt.Errorf("%q: %w", s, err)
	}
	return u, nil
}

// portOf is the port that is dialled for the URL of a target.
func portOf(u *url.URL) string {
	port, _ := egress.Port(u) // parseTarget has looked at it
	return port
}

// placesOf is where the jobs of a valid configuration may be pushed: what allow names, and below each
// queue's own target.
func placesOf(c Config) egress.Places {
	var all egress.Places
	for _, entry := range c.Allow {
		if p, err := egress.ParsePlace(entry); err == nil {
			all = append(all, p)
		}
	}
	for _, q := range c.Queues {
		if u, err := parseTarget(q.Target); err == nil { // a socket is no other queue's to name
			if p, err := egress.PlaceOf(u); err == nil {
				all = append(all, p)
			}
		}
	}
	return all
}

// checkPlace says what is wrong with pushing to u.
func checkPlace(places egress.Places, u *url.URL) error {
	err := places.Check(u)
	switch {
	case errors.Is(err, egress.ErrOwn):
		return errors.New("the address is the gateway's own. One of its sites can be a target if the configuration of the jobs backend names its host and port")
	case err != nil:
		return fmt.Errorf("the host %q, or the path on it, is not allowed. Name it in the configuration of the jobs backend, such as: allow %s", u.Host, u.Host)
	}
	return nil
}
