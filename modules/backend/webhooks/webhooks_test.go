package webhooks

import (
	"testing"

	_ "github.com/gatehouse-proxy/gatehouse/modules/backend"   // backend NAME
	_ "github.com/gatehouse-proxy/gatehouse/modules/gatehouse" // the global option
	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
)

func TestGolden(t *testing.T) { modtest.Golden(t, "testdata") }
