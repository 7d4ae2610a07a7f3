package flags_test

import (
	"testing"

	_ "github.com/gatehouse-proxy/gatehouse/modules/flags"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
)

func TestGolden(t *testing.T) { modtest.Golden(t, "testdata") }
