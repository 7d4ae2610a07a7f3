package jobs

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/httpapi"
	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

const (
	// maxBatch is the most jobs of one batch, maxBatchBody the largest body of one.
	maxBatch     = 1000
	maxBatchBody = 16 << 20
)

// BatchReceipt is the answer to a batch: a receipt for each job, in their order.
type BatchReceipt struct {
	Items []Receipt `json:"items"`
}

// postBatch enqueues all of the jobs or none.
func (s *Service) postBatch(w http.ResponseWriter, r *http.Request) error {
	body, err := httpapi.ReadBody(w, r, maxBatchBody)
	if err != nil {
		return err
	}
	var batch struct {
		Jobs []json.RawMessage `json:"jobs"`
	}
	if err = decode(w, r, body, &batch); err != nil {
		return err
	}
	if len(batch.Jobs) == 0 || len(batch.Jobs) > maxBatch {
		return unfit("jobs must have from 1 to %d jobs, not %d.", maxBatch, len(batch.Jobs))
	}
	idem, err := idempotencyOf(r, "POST /jobs/batch", body)
	if err != nil {
		return err
	}
	orders := make([]order, len(batch.Jobs))
	now, trace := time.Now(), traceOf(r)
	for i, text := range batch.Jobs {
		var q request
		if err = httpapi.UnmarshalStrict(text, &q); err != nil {
			return at(i, err)
		}
		if orders[i], err = s.orderOf(r.Context(), &q, now); err != nil {
			return at(i, err)
		}
		orders[i].args.Header = trace
		if idem != nil {
			part := *idem
			part.part = i
			orders[i].idempotency = &part
		}
	}
	all, err := s.place(r, orders)
	if err != nil {
		return err
	}
	receipt := BatchReceipt{Items: make([]Receipt, len(all))}
	for i, made := range all {
		receipt.Items[i] = made.receipt()
	}
	if all[0].replayed {
		w.Header().Set("Idempotency-Replayed", "true")
	}
	return httpapi.WriteJSON(w, http.StatusAccepted, receipt)
}

// at is err with the index of the job that it is about, from 0.
func at(i int, err error) error {
	e := *problem.From(err)
	e.Detail = "jobs[" + itoa(int64(i)) + "]: " + e.Detail
	e.Extra = map[string]any{"index": i}
	return &e
}
