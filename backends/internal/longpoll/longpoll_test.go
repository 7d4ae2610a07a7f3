package longpoll_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/longpoll"
	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

// place is a response writer that knows whether its request has a place.
type place struct {
	http.ResponseWriter
	parked, resumed int
}

func (p *place) Park() func() {
	p.parked++
	return func() { p.resumed++ }
}

// wrapped is a writer of somebody else around it.
type wrapped struct{ http.ResponseWriter }

func (w wrapped) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func TestOneCallerIsBounded(t *testing.T) {
	for name, c := range map[string]struct {
		caller service.Caller
		ip     string
		most   int
	}{
		"owner":    {service.Caller{Owner: "a"}, "", 100},
		"subject":  {service.Caller{Subject: "a"}, "", 100},
		"address":  {service.Caller{}, "192.0.2.1", 100},
		"peer":     {service.Caller{}, "", 2000},
		"service":  {service.Caller{Service: true}, "", 2000},
		"operator": {service.Caller{Operator: true, Subject: "root"}, "", 2000},
	} {
		t.Run(name, func(t *testing.T) {
			var b longpoll.Bound
			r := httptest.NewRequest(http.MethodPost, "/", http.NoBody)
			if c.ip != "" {
				r.Header.Set(service.ClientIPHeader, c.ip)
			}
			p := &place{ResponseWriter: httptest.NewRecorder()}
			var leaves []func()
			for range c.most {
				leave, err := b.Begin(wrapped{p}, r, c.caller)
				if err != nil {
					t.Fatalf("refused after %d: %v", len(leaves), err)
				}
				leaves = append(leaves, leave)
			}
			_, err := b.Begin(wrapped{p}, r, c.caller)
			if e := problem.From(err); err == nil || e.Code != problem.QuotaExceeded {
				t.Errorf("got %v, want quota-exceeded", err)
			}
			if _, err = b.Begin(wrapped{p}, r, service.Caller{Owner: "somebody else"}); err != nil {
				t.Errorf("another caller is refused: %v", err)
			}
			leaves[0]()
			leaves[0]() // once is enough
			if _, err = b.Begin(wrapped{p}, r, c.caller); err != nil {
				t.Errorf("refused although one has left: %v", err)
			}
			if p.parked != c.most+2 || p.resumed != 1 {
				t.Errorf("%d places were given back and %d taken again", p.parked, p.resumed)
			}
		})
	}
}
