package jobs

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"

	"riverqueue.com/riverui"
)

// uiPath is where the engine's web page is mounted.
const uiPath = "/jobs/ui"

// ui is the engine's web page over the jobs. It can retry, cancel and delete, and is for operators. Its cancel and retry are the engine's own: they leave the unique keys
// to whoever holds them.
type ui struct {
	page    *riverui.Handler
	handler http.Handler
}

// newUI is the page of s.
func newUI(s *Service) (*ui, error) {
	page, err := riverui.NewHandler(&riverui.HandlerOpts{
		Endpoints: riverui.NewEndpoints(s.river, nil),
		// Payloads may hold what not everybody should read over a shoulder.
		JobListHideArgsByDefault: true,
		Logger:                   slog.New(newQuiet(s.log.Handler())),
		Prefix:                   uiPath,
	})
	if err != nil {
		return nil, fmt.Errorf("making the jobs page: %w", err)
	}
	// A browser sends its credentials along, so another site must not make it act.
	return &ui{page, http.NewCrossOriginProtection().Handler(page)}, nil
}

// owns says whether the page answers at the path.
func (u *ui) owns(path string) bool {
	return u != nil && (path == uiPath || strings.HasPrefix(path, uiPath+"/"))
}

// start lets the page keep its numbers fresh until ctx ends.
func (u *ui) start(ctx context.Context) error {
	if u == nil {
		return nil
	}
	if err := u.page.Start(ctx); err != nil {
		return fmt.Errorf("starting the jobs page: %w", err)
	}
	return nil
}
