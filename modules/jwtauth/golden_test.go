package jwtauth_test

import (
	"testing"

	_ "github.com/gatehouse-proxy/gatehouse/modules/jwtauth"

	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
)

func TestGolden(t *testing.T) { modtest.Golden(t, "testdata") }
