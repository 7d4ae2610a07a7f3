// Package standard is every module of Gatehouse.
package standard

import (
	_ "github.com/gatehouse-proxy/gatehouse/modules/backend" // backend NAME
	_ "github.com/gatehouse-proxy/gatehouse/modules/gatehouse"
)
