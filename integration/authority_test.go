package integration

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// right is one call and what each caller is answered: nobody, the user whose resource it is, another user,
// and the app by its token. ID stands for the resource, which first makes, as the user. Calls that change
// are made by the other user before the app and the user themselves. 0 stands for a call that is not made.
type right struct {
	backend, method, path string
	body                  string
	nobody, other, app    int
	own                   int
	first                 string // a path to POST firstBody to, whose answer's id is ID
	firstBody             string
}

const oneJob = `{"queue":"email","delay":"1h","payload":1}`

// rights has a row for each route of the backends that are listed in routers.
var rights = []right{
	{"jobs", "POST", "/jobs", oneJob, 401, 202, 202, 202, "", ""},
	{"jobs", "POST", "/jobs", `{"queue":"email","delay":"1h","payload":1,"owner":"ann"}`, 401, 403, 202, 202, "", ""},
	{"jobs", "POST", "/jobs", `{"queue":"email","delay":"1h","payload":1,"target":"http://127.0.0.1:9001/tasks/order"}`, 401, 403, 202, 403, "", ""},
	{"jobs", "POST", "/jobs", `{"queue":"orders","delay":"1h","payload":1}`, 401, 422, 202, 422, "", ""},
	{"jobs", "POST", "/jobs", `{"queue":"internal","payload":1}`, 401, 422, 422, 422, "", ""},
	{"jobs", "POST", "/jobs/batch", `{"jobs":[` + oneJob + `]}`, 401, 202, 202, 202, "", ""},
	{"jobs", "GET", "/jobs", "", 401, 200, 200, 200, "", ""},
	{"jobs", "GET", "/jobs/groups", "", 401, 200, 200, 200, "", ""},
	{"jobs", "POST", "/jobs/retry", `{"queue":"email"}`, 401, 200, 200, 200, "", ""},
	{"jobs", "POST", "/jobs/cancel", `{"queue":"email","key":"none"}`, 401, 200, 200, 200, "", ""},
	{"jobs", "GET", "/jobs/{id}", "", 401, 404, 200, 200, "/jobs", oneJob},
	{"jobs", "PUT", "/jobs/{id}", `{"payload":2}`, 401, 404, 200, 200, "/jobs", oneJob},
	{"jobs", "POST", "/jobs/{id}/retry", "", 401, 404, 202, 0, "/jobs", oneJob},
	{"jobs", "POST", "/jobs/{id}/retry", "", 401, 404, 0, 202, "/jobs", oneJob},
	{"jobs", "DELETE", "/jobs/{id}", "", 401, 404, 200, 409, "/jobs", oneJob},
	{"jobs", "POST", "/jobs/{id}/heartbeat", `{"fence":1}`, 401, 403, 409, 403, "/jobs", oneJob},
	{"jobs", "POST", "/jobs/{id}/complete", `{"fence":1}`, 401, 403, 409, 403, "/jobs", oneJob},
	{"jobs", "POST", "/jobs/{id}/fail", `{"fence":1,"error":"x"}`, 401, 403, 409, 403, "/jobs", oneJob},
	{"jobs", "GET", "/queues", "", 401, 403, 200, 403, "", ""},
	{"jobs", "GET", "/queues/email", "", 401, 403, 200, 403, "", ""},
	{"jobs", "POST", "/queues/email/pause", "", 401, 403, 403, 403, "", ""},
	{"jobs", "POST", "/queues/email/resume", "", 401, 403, 403, 403, "", ""},
	{"jobs", "POST", "/queues/email/drain", "", 401, 403, 403, 403, "", ""},
	{"jobs", "POST", "/queues/email/breaker/reset", "", 401, 403, 403, 403, "", ""},
	{"jobs", "POST", "/queues/email/lease", "{}", 401, 403, 422, 403, "", ""},
	{"jobs", "GET", "/schedules", "", 401, 200, 200, 200, "", ""},
	{"jobs", "PUT", "/schedules/nightly", `{"cron":"0 0 1 1 *","queue":"email"}`, 401, 201, 409, 201, "", ""},
	{"jobs", "GET", "/schedules/{name}", "", 401, 404, 404, 200, "schedule", ""},
	{"jobs", "POST", "/schedules/{name}/run", "", 401, 404, 404, 202, "schedule", ""},
	{"jobs", "POST", "/schedules/{name}/pause", "", 401, 404, 404, 200, "schedule", ""},
	{"jobs", "POST", "/schedules/{name}/resume", "", 401, 404, 404, 200, "schedule", ""},
	{"jobs", "DELETE", "/schedules/{name}", "", 401, 404, 404, 204, "schedule", ""},
	{"locks", "GET", "/locks", "", 401, 403, 200, 403, "", ""},
	{"locks", "POST", "/locks/held", `{"ttl":"1m"}`, 401, 200, 409, 409, "", ""},
	{"locks", "GET", "/locks/held", "", 401, 200, 200, 200, "", ""},
	{"locks", "PUT", "/locks/held", `{"token":"guessed","ttl":"1m"}`, 401, 409, 409, 409, "", ""},
	{"locks", "DELETE", "/locks/held", `{"token":"guessed"}`, 401, 409, 409, 409, "", ""},
	{"flags", "GET", "/flags", "", 401, 403, 403, 403, "", ""},
	{"flags", "GET", "/flags/beta", "", 401, 403, 403, 403, "", ""},
	{"flags", "PUT", "/flags/beta", `{"enabled":true}`, 401, 403, 403, 403, "", ""},
	{"flags", "DELETE", "/flags/beta", "", 401, 403, 403, 403, "", ""},
	{"flags", "POST", "/ofrep/v1/evaluate/flags", `{}`, 401, 403, 403, 403, "", ""},
	{"flags", "POST", "/ofrep/v1/evaluate/flags/beta", `{}`, 401, 403, 403, 403, "", ""},
	{"webhooks", "POST", "/endpoints", oneEndpoint, 401, 201, 201, 201, "", ""},
	{"webhooks", "POST", "/endpoints", `{"owner":"ann","url":"https://hooks.example.com/in"}`, 401, 403, 201, 201, "", ""},
	{"webhooks", "POST", "/endpoints", `{"url":"http://127.0.0.1:9001/inbox"}`, 401, 400, 201, 400, "", ""},
	{"webhooks", "GET", "/endpoints", "", 401, 200, 200, 200, "", ""},
	{"webhooks", "GET", "/endpoints/{id}", "", 401, 404, 200, 200, "/endpoints", oneEndpoint},
	{"webhooks", "PUT", "/endpoints/{id}", oneEndpoint, 401, 404, 200, 200, "/endpoints", oneEndpoint},
	{"webhooks", "DELETE", "/endpoints/{id}", "", 401, 404, 204, 404, "/endpoints", oneEndpoint},
	{"webhooks", "POST", "/events", `{"type":"order.shipped","payload":1,"owner":"nobody-else"}`, 401, 403, 202, 403, "", ""},
	{"webhooks", "POST", "/events", `{"type":"order.none","payload":1}`, 401, 202, 202, 202, "", ""},
	{"webhooks", "GET", "/deliveries", "", 401, 200, 200, 200, "", ""},
	{"webhooks", "GET", "/deliveries/{id}", "", 401, 404, 200, 200, "delivery", ""},
	{"webhooks", "POST", "/deliveries/{id}/retry", "", 401, 404, 202, 0, "delivery", ""},
	{"webhooks", "POST", "/deliveries/{id}/retry", "", 401, 404, 0, 202, "delivery", ""},
	{"webhooks", "GET", "/received", "", 401, 403, 200, 403, "", ""},
	{"cache", "PUT", "/cache/mine", "value", 401, 201, 201, 201, "", ""},
	{"cache", "GET", "/cache/mine", "", 401, 200, 200, 200, "", ""},
	{"cache", "GET", "/cache/mine?owner=ann", "", 401, 403, 200, 200, "", ""},
	{"cache", "PUT", "/cache/hers?owner=ann", "ann's", 401, 403, 201, 204, "", ""},
	{"cache", "GET", "/cache/hers", "", 401, 404, 404, 200, "", ""},
	{"cache", "POST", "/cache/hers/fill", `{"url":"http://127.0.0.1:1/"}`, 401, 403, 422, 403, "", ""},
	{"cache", "POST", "/cache/invalidate", `{"tags":["news"]}`, 401, 200, 200, 200, "", ""},
	{"cache", "DELETE", "/cache/hers", "", 401, 204, 204, 204, "", ""},
	{"uploads", "GET", "/uploads/{id}", "", 401, 404, 404, 200, "/uploads/presign", oneUpload},
	{"uploads", "DELETE", "/uploads/{id}", "", 401, 404, 404, 204, "/uploads/presign", oneUpload},
	{"identity", "GET", "/users", "", 401, 404, 404, 404, "", ""},
	{"identity", "GET", "/revocations", "", 401, 404, 404, 404, "", ""},
}

const oneEndpoint = `{"url":"https://hooks.example.com/in","types":["order.created"]}`

const oneUpload = `{"filename":"a.txt","content_type":"text/plain","size":5}`

// routers are the files with the routes of the backends that rights must cover.
var routers = map[string][]string{
	"jobs":     {"backends/jobs/api.go", "backends/jobs/schedule_api.go"},
	"locks":    {"backends/locks/locks.go"},
	"flags":    {"backends/flags/flags.go"},
	"cache":    {"backends/cache/service.go"},
	"webhooks": {"backends/webhooks/service.go"},
}

// TestEveryRouteHasItsRights: a new route needs rows that say who may call it.
func TestEveryRouteHasItsRights(t *testing.T) {
	for backend, files := range routers {
		for _, route := range routesOf(t, files) {
			method, path, _ := strings.Cut(route, " ")
			if !slices.ContainsFunc(rights, func(r right) bool { return r.backend == backend && r.method == method && samePath(path, r.path) }) {
				t.Errorf("%s: rights has no row for %s", backend, route)
			}
		}
	}
}

// samePath reports whether a path fits a pattern, whose parts in braces fit all.
func samePath(pattern, path string) bool {
	path, _, _ = strings.Cut(path, "?")
	p, q := strings.Split(pattern, "/"), strings.Split(path, "/")
	return slices.EqualFunc(p, q, func(a, b string) bool { return a == b || strings.HasPrefix(a, "{") })
}

// routesOf reads the routes out of the calls of Handle and handle.
func routesOf(t *testing.T, files []string) (routes []string) {
	t.Helper()
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, file), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			c, ok := n.(*ast.CallExpr)
			if !ok || len(c.Args) != 3 {
				return true
			}
			called, ok := c.Fun.(*ast.SelectorExpr)
			if !ok || !strings.EqualFold(called.Sel.Name, "handle") {
				return true
			}
			method, ok := c.Args[0].(*ast.SelectorExpr)
			path, isText := c.Args[1].(*ast.BasicLit)
			if !ok || !isText {
				return true
			}
			text, _ := strconv.Unquote(path.Value)
			routes = append(routes, strings.ToUpper(strings.TrimPrefix(method.Sel.Name, "Method"))+" "+text)
			return true
		})
	}
	if len(routes) == 0 {
		t.Fatalf("%v: no routes were found", files)
	}
	return routes
}

// TestRights makes every call in the example as nobody, as another user, as the app and as the owner.
func TestRights(t *testing.T) {
	e := newExample(t)
	text, err := os.ReadFile(e.config)
	if err != nil {
		t.Fatal(err)
	}
	// As many requests as the table has, at once.
	if err = os.WriteFile(e.config, []byte(strings.NewReplacer("120/1m burst 20", "9999/1m burst 999", "600/1m burst 200", "9999/1m burst 999").Replace(string(text))), 0o600); err != nil {
		t.Fatal(err)
	}
	e.run(t)
	ann, bob := e.gatehouse(t, "", "token", "mint", "--sub", "ann"), e.gatehouse(t, "", "token", "mint", "--sub", "bob")
	app := e.gatehouse(t, "", "token", "mint", "--service", "app", "--scope", "jobs:write locks:write webhooks:write cache:write")
	made := 0
	for _, r := range rights {
		t.Run(r.backend+" "+r.method+" "+r.path+" "+r.body, func(t *testing.T) {
			path, body := r.path, e.ports.Replace(r.body)
			switch r.first {
			case "":
			case "schedule":
				made++
				name := "s" + strconv.Itoa(made)
				if status, answer := call(t, http.MethodPut, e.base+"/schedules/"+name, ann, `{"cron":"0 0 1 1 *","queue":"email"}`); status != 201 {
					t.Fatalf("got %d %s", status, answer)
				}
				path = strings.Replace(path, "{name}", name, 1)
			case "delivery":
				made++
				path = strings.Replace(path, "{id}", e.failedDelivery(t, ann, "order.number"+strconv.Itoa(made)), 1)
			default:
				status, answer := call(t, http.MethodPost, e.base+r.first, ann, r.firstBody)
				var resource struct{ ID string }
				if err := json.Unmarshal([]byte(answer), &resource); err != nil || status >= 300 {
					t.Fatalf("got %d %s", status, answer)
				}
				path = strings.Replace(path, "{id}", resource.ID, 1)
			}
			for _, c := range []struct {
				who, token string
				want       int
			}{{"nobody", "", r.nobody}, {"another user", bob, r.other}, {"the app", app, r.app}, {"the owner", ann, r.own}} {
				if c.want == 0 {
					continue
				}
				status, answer := call(t, r.method, e.base+path, c.token, body)
				if status != c.want {
					t.Errorf("%s: got %d %s, want %d", c.who, status, answer, c.want)
				}
				if c.who == "another user" && r.method == http.MethodGet && strings.Contains(answer, `"ann"`) {
					t.Errorf("another user sees %s", answer)
				}
			}
		})
	}
}

// failedDelivery returns the id of a delivery of the token's owner that was tried in vain.
func (e *example) failedDelivery(t *testing.T, token, typ string) string {
	t.Helper()
	if status, answer := call(t, http.MethodPost, e.base+"/endpoints", token, `{"url":"https://hooks.invalid/","types":["`+typ+`"]}`); status != http.StatusCreated {
		t.Fatalf("got %d %s", status, answer)
	}
	if status, answer := call(t, http.MethodPost, e.base+"/events", token, `{"type":"`+typ+`","payload":1}`); status != http.StatusAccepted {
		t.Fatalf("got %d %s", status, answer)
	}
	var id string
	eventually(t, 30*time.Second, func() error {
		_, answer := call(t, http.MethodGet, e.base+"/deliveries?state=retrying&limit=1", token, "")
		var l struct {
			Items []struct {
				ID   string
				Type string `json:"event_type"`
			}
		}
		if err := json.Unmarshal([]byte(answer), &l); err != nil || len(l.Items) == 0 || l.Items[0].Type != typ {
			return fmt.Errorf("no delivery was tried: %s, %v", answer, err) //nolint:errorlint // it may be nil
		}
		id = l.Items[0].ID
		return nil
	})
	return id
}
