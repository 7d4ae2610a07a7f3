package gatehouse

import (
	"path/filepath"

	"github.com/gatehouse-proxy/gatehouse/internal/service"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/capture"
)

// watch captures overloads from now on.
func (a *App) watch(host *service.Host) {
	if !a.Profile.Off {
		a.capture = capture.Watch(a.Profile, filepath.Join(host.Dir, "profiles"), a.log, emitCaptured)
	}
}
