package circuitbreaker_test

import (
	"net/http"
	"testing"
)

// grpc answers as a gRPC server does: 200, and the status in the trailers, or in the header of an answer
// that is nothing else.
func grpc(status string, trailers bool) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		if !trailers {
			w.Header().Set("Grpc-Status", status)
			return
		}
		w.Header().Set("Trailer", "Grpc-Status")
		_, _ = w.Write([]byte{0, 0, 0, 0, 0})
		w.Header().Set("Grpc-Status", status)
	}
}

func TestFailuresOfGRPCOpenTheCircuit(t *testing.T) {
	for status, want := range map[string]float64{"14": isOpen, "13": isOpen, "4": isOpen, "2": isOpen, "0": isClosed, "5": isClosed, "16": isClosed} {
		for name, trailers := range map[string]bool{"header": false, "trailers": true} {
			t.Run(status+"-"+name, func(t *testing.T) {
				a := newApp(t, grpc(status, trailers))
				g := gateway(t, quick+"retry 2", a)
				for range 10 {
					_ = body(t, g.Get("/"))
				}
				wantState(t, g, want)
				if a.hits.Load() > 10 {
					t.Errorf("the app got %d requests for 10: nothing may be repeated", a.hits.Load())
				}
			})
		}
	}
}
