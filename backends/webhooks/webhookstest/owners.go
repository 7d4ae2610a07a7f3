package webhookstest

import (
	"crypto/rand"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// ownEndpoints is how many endpoints one owner may have.
const ownEndpoints = 100

// user returns a new user, and the examiner as that user.
func (x *examiner) user(name string) (string, *examiner) {
	name += "-" + strings.ToLower(rand.Text())
	u := *x
	u.base, u.as = strings.TrimSuffix(x.users.Base, "/"), func(r *http.Request) { x.users.As(r, name) }
	return name, &u
}

// problem makes a request that is refused with the status, and returns why.
func (x *examiner) problem(t *testing.T, method, path, body string, want int) string {
	t.Helper()
	got, header, b := x.raw(t, method, path, "application/json", body)
	if got != want || !isProblem(header, b, want) {
		t.Errorf("%s %s %s: got %d %s, want a problem of %d", method, path, body, got, b, want)
	}
	var doc struct{ Detail string }
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Errorf("%s %s: got %s: %v", method, path, b, err)
	}
	return doc.Detail
}

// ids are the ids in a list.
func (x *examiner) ids(t *testing.T, path string) []string {
	t.Helper()
	var l list[struct{ ID string }]
	x.call(t, http.MethodGet, path, nil, http.StatusOK, &l)
	ids := make([]string, len(l.Items))
	for i, item := range l.Items {
		ids[i] = item.ID
	}
	return ids
}

func (x *examiner) sees(t *testing.T, path string, want ...string) {
	t.Helper()
	if got := x.ids(t, path); !slices.Equal(got, want) {
		t.Errorf("GET %s: got %v, want %v", path, got, want)
	}
}

// owners makes every call of one user with what is another's and with what is not there: the answers are the same.
func (x *examiner) owners(t *testing.T) {
	s, typ := newSink(t, http.StatusOK), newType()
	annName, ann := x.user("ann")
	bobName, bob := x.user("bob")
	hers, his, nobodys := ann.endpoint(t, s.URL+"/ann", typ), bob.endpoint(t, s.URL+"/bob", typ), x.endpoint(t, s.URL+"/nobody", typ)
	if hers.Owner != annName || his.Owner != bobName || nobodys.Owner != "" {
		t.Errorf("got the owners %q, %q and %q", hers.Owner, his.Owner, nobodys.Owner)
	}
	ann.publish(t, typ, 1)
	x.publish(t, typ, 1)
	sent, apps := ann.settled(t, hers.ID, "delivered"), x.settled(t, nobodys.ID, "delivered")
	if sent.Owner != annName || apps.Owner != "" {
		t.Errorf("got the owners %q and %q of deliveries", sent.Owner, apps.Owner)
	}

	valid := `{"url":"` + s.URL + `/taken","types":["` + typ + `"]}`
	for _, c := range []struct {
		method, path, after, body string
		foreign                   []string
	}{
		{http.MethodGet, "/endpoints/", "", "", []string{hers.ID, nobodys.ID}},
		{http.MethodPut, "/endpoints/", "", valid, []string{hers.ID, nobodys.ID}},
		{http.MethodPut, "/endpoints/", "", `{"url":"https://10.0.0.1/"}`, []string{hers.ID, nobodys.ID}},
		{http.MethodPut, "/endpoints/", "", `{"url":"` + s.URL + `","owner":"` + bobName + `"}`, []string{hers.ID, nobodys.ID}},
		{http.MethodDelete, "/endpoints/", "", "", []string{hers.ID, nobodys.ID}},
		{http.MethodGet, "/deliveries/", "", "", []string{sent.ID, apps.ID}},
		{http.MethodPost, "/deliveries/", "/retry", "", []string{sent.ID, apps.ID}},
	} {
		unknown := bob.problem(t, c.method, c.path+"none"+c.after, c.body, http.StatusNotFound)
		for _, id := range c.foreign {
			if got := bob.problem(t, c.method, c.path+id+c.after, c.body, http.StatusNotFound); got != unknown {
				t.Errorf("%s %s of another: got %q, and %q for one that is not there", c.method, c.path, got, unknown)
			}
		}
	}
	for caller, want := range map[*examiner]delivery{ann: sent, x: apps} { // a refused call changes nothing
		var d delivery
		if caller.call(t, http.MethodGet, "/deliveries/"+want.ID, nil, http.StatusOK, &d); d != want {
			t.Errorf("after the calls of another: got %+v, want %+v", d, want)
		}
		var e endpoint
		if caller.call(t, http.MethodGet, "/endpoints/"+want.EndpointID, nil, http.StatusOK, &e); strings.HasSuffix(e.URL, "/taken") {
			t.Errorf("after the calls of another: got %+v", e)
		}
	}
	for _, query := range []string{"?", "?owner=" + annName, "?owner="} {
		bob.sees(t, "/endpoints"+query, his.ID)
		bob.sees(t, "/deliveries"+query)
	}
	for _, id := range []string{hers.ID, nobodys.ID} {
		bob.sees(t, "/deliveries?endpoint="+id)
	}
	bob.sees(t, "/deliveries?state=delivered")
	bob.problem(t, http.MethodGet, "/received", "", http.StatusForbidden)
	bob.problem(t, http.MethodPost, "/endpoints", strings.Replace(valid, "{", `{"owner":"`+annName+`",`, 1), http.StatusForbidden)
	bob.problem(t, http.MethodPost, "/events", `{"type":"a","payload":1,"owner":"`+annName+`"}`, http.StatusForbidden)

	// What is somebody's is an operator's, too, and stays somebody's.
	x.sees(t, "/endpoints?owner="+annName, hers.ID)
	x.sees(t, "/deliveries?owner="+annName, sent.ID)
	for _, caller := range []*examiner{ann, x} {
		var e endpoint
		caller.call(t, http.MethodPut, "/endpoints/"+hers.ID, object{"url": s.URL + "/ann", "types": []string{typ}}, http.StatusOK, &e)
		if e.Owner != annName {
			t.Errorf("after PUT it is %q's", e.Owner)
		}
		caller.problem(t, http.MethodPut, "/endpoints/"+hers.ID, `{"url":"`+s.URL+`","owner":"`+bobName+`"}`, http.StatusBadRequest)
		caller.call(t, http.MethodGet, "/deliveries/"+sent.ID, nil, http.StatusOK, nil)
		caller.call(t, http.MethodPost, "/deliveries/"+sent.ID+"/retry", nil, http.StatusAccepted, nil)
		caller.settled(t, hers.ID, "delivered")
	}
	ann.call(t, http.MethodDelete, "/endpoints/"+hers.ID, nil, http.StatusNoContent, nil)
	ann.problem(t, http.MethodGet, "/endpoints/"+hers.ID, "", http.StatusNotFound)
}

// ownersEvents sends events of one id for several owners: each goes to its owner's endpoints, by that id.
func (x *examiner) ownersEvents(t *testing.T) {
	s, typ, id := newSink(t, http.StatusOK), newType(), "exam-"+rand.Text()
	annName, ann := x.user("ann")
	_, bob := x.user("bob")
	cemName, cem := x.user("cem")
	endpoints := map[string]endpoint{"/ann": ann.endpoint(t, s.URL+"/ann", typ), "/bob": bob.endpoint(t, s.URL+"/bob", typ), "/nobody": x.endpoint(t, s.URL+"/nobody", typ)}
	var made endpoint // in the name of somebody
	x.call(t, http.MethodPost, "/endpoints", object{"url": s.URL + "/cem", "types": []string{typ}, "owner": cemName}, http.StatusCreated, &made)
	endpoints["/cem"] = made
	cem.sees(t, "/endpoints", made.ID)

	for path, c := range map[string]struct {
		caller *examiner
		owner  string
	}{"/ann": {ann, ""}, "/bob": {bob, ""}, "/nobody": {x, ""}, "/cem": {x, cemName}} {
		in := object{"type": typ, "payload": path, "id": id}
		if c.owner != "" {
			in["owner"] = c.owner
		}
		var got event
		c.caller.call(t, http.MethodPost, "/events", in, http.StatusAccepted, &got)
		if got.ID != id || got.Duplicate || got.Deliveries != 1 {
			t.Errorf("%s: got %+v, want a new event with one delivery", path, got)
		}
		c.caller.call(t, http.MethodPost, "/events", in, http.StatusAccepted, &got)
		if got.ID != id || !got.Duplicate {
			t.Errorf("%s again: got %+v, want a duplicate", path, got)
		}
		in["payload"] = "another"
		c.caller.call(t, http.MethodPost, "/events", in, http.StatusConflict, nil)
	}
	var got event
	x.call(t, http.MethodPost, "/events", object{"type": typ, "payload": "/ann", "id": id, "owner": annName}, http.StatusAccepted, &got)
	if !got.Duplicate {
		t.Errorf("her event in her name: got %+v, want a duplicate", got)
	}

	for path, e := range endpoints {
		if d := x.settled(t, e.ID, "delivered"); d.EventID != id || d.Owner != e.Owner {
			t.Errorf("%s: got %+v, want the event %s of %q", path, d, id, e.Owner)
		}
	}
	requests := s.requests()
	if len(requests) != len(endpoints) {
		t.Errorf("got %d requests, want one for each of %d endpoints", len(requests), len(endpoints))
	}
	for _, r := range requests {
		verify(t, endpoints[r.path], r, id)
		var body struct{ Data string }
		if err := json.Unmarshal(r.body, &body); err != nil || body.Data != r.path {
			t.Errorf("%s got %s", r.path, r.body)
		}
	}
	cem.call(t, http.MethodDelete, "/endpoints/"+made.ID, nil, http.StatusNoContent, nil)
}

// ownersBounds fills what one owner may have: others have room.
func (x *examiner) ownersBounds(t *testing.T) {
	annName, ann := x.user("ann")
	_, bob := x.user("bob")
	typ := newType()
	const url = "https://hooks.example.com/in"
	for range ownEndpoints {
		ann.endpoint(t, url, typ)
	}
	const body = `{"url":"` + url + `","types":["none"]`
	ann.problem(t, http.MethodPost, "/endpoints", body+`}`, http.StatusUnprocessableEntity)
	x.problem(t, http.MethodPost, "/endpoints", body+`,"owner":"`+annName+`"}`, http.StatusUnprocessableEntity)
	bob.endpoint(t, url, typ)
	x.endpoint(t, url, typ)
}
