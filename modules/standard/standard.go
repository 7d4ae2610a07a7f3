// Package standard is every module of Gatehouse. The order in which a request passes them is in
// modules/internal/journey.
package standard

import (
	_ "github.com/gatehouse-proxy/gatehouse/modules/admission"      // admission
	_ "github.com/gatehouse-proxy/gatehouse/modules/apiversion"     // api_version
	_ "github.com/gatehouse-proxy/gatehouse/modules/backend"        // backend NAME
	_ "github.com/gatehouse-proxy/gatehouse/modules/circuitbreaker" // circuit_breaker
	_ "github.com/gatehouse-proxy/gatehouse/modules/flags"          // matcher flag, split
	_ "github.com/gatehouse-proxy/gatehouse/modules/gatehouse"      // the app
	_ "github.com/gatehouse-proxy/gatehouse/modules/guard"          // guard
	_ "github.com/gatehouse-proxy/gatehouse/modules/httpcache"      // http_cache
	_ "github.com/gatehouse-proxy/gatehouse/modules/jwtauth"        // jwt_auth
	_ "github.com/gatehouse-proxy/gatehouse/modules/limit"          // limit, quota
	_ "github.com/gatehouse-proxy/gatehouse/modules/problem"        // problem
	_ "github.com/gatehouse-proxy/gatehouse/modules/secrets"        // the commands secrets status and rotate
	_ "github.com/gatehouse-proxy/gatehouse/modules/webhookverify"  // webhook_verify

	// The bundled backends.
	_ "github.com/gatehouse-proxy/gatehouse/modules/backend/cache"
	_ "github.com/gatehouse-proxy/gatehouse/modules/backend/flags"
	_ "github.com/gatehouse-proxy/gatehouse/modules/backend/identity"
	_ "github.com/gatehouse-proxy/gatehouse/modules/backend/jobs"
	_ "github.com/gatehouse-proxy/gatehouse/modules/backend/locks"
	_ "github.com/gatehouse-proxy/gatehouse/modules/backend/uploads"
	_ "github.com/gatehouse-proxy/gatehouse/modules/backend/webhooks"
)
