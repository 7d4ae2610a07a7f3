package problem

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

func TestDescribe(t *testing.T) {
	own := problem.New(problem.LockHeld, "It is held.")
	for name, test := range map[string]struct {
		err    error
		status int
		code   problem.Code
		want   int
	}{
		"own":             {own, 0, problem.LockHeld, 409},
		"own-wrapped":     {fmt.Errorf("x: %w", own), 409, problem.LockHeld, 409},
		"own-status":      {own, 423, problem.LockHeld, 423},
		"too-large":       {fmt.Errorf("reading: %w", &http.MaxBytesError{Limit: 3}), 502, problem.ContentTooLarge, 413},
		"bare":            {errors.New("x"), 0, problem.Internal, 500},
		"cancelled":       {context.Canceled, 499, problem.ClientClosedRequest, 499},
		"not-an-error":    {errors.New("x"), 200, problem.Internal, 500},
		"redirect":        {errors.New("x"), 302, problem.Internal, 500},
		"negative":        {errors.New("x"), -1, problem.Internal, 500},
		"huge":            {errors.New("x"), 99999, problem.Internal, 500},
		"unknown-of-4xx":  {errors.New("x"), 451, problem.InvalidRequest, 451},
		"unknown-of-5xx":  {errors.New("x"), 505, problem.Internal, 505},
		"not-implemented": {errors.New("x"), 501, problem.Internal, 501},
	} {
		t.Run(name, func(t *testing.T) {
			e, status := describe(test.err, test.status)
			if e.Code != test.code || status != test.want {
				t.Errorf("got %s %d, want %s %d", e.Code, status, test.code, test.want)
			}
		})
	}
}
