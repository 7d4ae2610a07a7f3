package jobs

import (
	"testing"
	"time"
)

func TestDuplicateReplaces(t *testing.T) {
	s := still(t, Config{Queues: map[string]Queue{"q": {Pull: true, OnDuplicate: OnDuplicate{Replace: true}}}})
	unique := func(payload, members string) Receipt {
		t.Helper()
		return post(t, s, `{"queue":"q","unique_key":"u","payload":`+payload+members+`}`)
	}
	first := unique("1", `,"attempts":7`)
	second := unique("2", `,"priority":3,"key":"k"`)
	if !second.Duplicate || !second.Replaced || second.ID != first.ID || second.State != "queued" {
		t.Errorf("got %+v, want the first job replaced", second)
	}
	v, err := s.job(t.Context(), parseID(first.ID))
	if err != nil || string(v.Payload) != "2" || v.Priority != 3 || v.Key != "k" || v.MaxAttempts != 5 {
		t.Errorf("got %+v, %v, want all of the second order", v, err)
	}
	if third := unique("3", `,"on_duplicate":"keep"`); !third.Duplicate || third.Replaced || third.ID != first.ID {
		t.Errorf("got %+v, want the job kept", third)
	}
	if v, err = s.job(t.Context(), parseID(first.ID)); err != nil || string(v.Payload) != "2" {
		t.Errorf("got %s, %v, want what was kept", v.Payload, err)
	}
	if later := unique("4", `,"delay":"1h"`); !later.Replaced || later.State != "scheduled" {
		t.Errorf("got %+v, want it to be scheduled", later)
	}
	if sooner := unique("5", ""); !sooner.Replaced || sooner.State != "queued" {
		t.Errorf("got %+v, want it to be due again", sooner)
	}
	if ids := takeIDs(t, s, 10); len(ids) != 1 || ids[0] != parseID(first.ID) {
		t.Fatalf("started %v", ids)
	}
	fresh := unique("6", "")
	if fresh.Duplicate || fresh.ID == first.ID {
		t.Errorf("got %+v while the first runs, want a job of its own", fresh)
	}
	if v, err = s.job(t.Context(), parseID(first.ID)); err != nil || string(v.Payload) != "5" {
		t.Errorf("the running job has %s, %v", v.Payload, err)
	}
	if again := unique("7", ""); !again.Replaced || again.ID != fresh.ID {
		t.Errorf("got %+v, want the job that waits replaced", again)
	}
}

func TestDuplicateDebounces(t *testing.T) {
	s := still(t, Config{Queues: map[string]Queue{"q": {Pull: true, OnDuplicate: OnDuplicate{Replace: true, Debounce: time.Hour}}}})
	first := post(t, s, `{"queue":"q","unique_key":"u","payload":1}`)
	if first.Duplicate || first.State != "scheduled" {
		t.Fatalf("got %+v, want a job that waits", first)
	}
	due := func() time.Time {
		t.Helper()
		v, err := s.job(t.Context(), parseID(first.ID))
		if err != nil {
			t.Fatal(err)
		}
		return v.RunAt
	}
	before := due()
	if wait := time.Until(before); wait < 59*time.Minute || wait > time.Hour {
		t.Errorf("it is due in %s, want an hour", wait)
	}
	<-time.After(5 * time.Millisecond)
	if again := post(t, s, `{"queue":"q","unique_key":"u","payload":2}`); !again.Replaced || again.ID != first.ID {
		t.Errorf("got %+v, want the job replaced", again)
	}
	if after := due(); !after.After(before) {
		t.Errorf("it is due at %s as before, want later", after)
	}
	if soon := post(t, s, `{"queue":"q","unique_key":"u","payload":3,"on_duplicate":"debounce 1s"}`); !soon.Replaced {
		t.Errorf("got %+v", soon)
	}
	if wait := time.Until(due()); wait > time.Second {
		t.Errorf("it is due in %s, want within a second", wait)
	}
	if plain := post(t, s, `{"queue":"q","payload":4}`); plain.State != "queued" {
		t.Errorf("got %+v, want a job without unique key to be due at once", plain)
	}
}

func TestOnDuplicateText(t *testing.T) {
	for text, want := range map[string]OnDuplicate{
		"keep": {}, "replace": {Replace: true}, "debounce 5s": {Replace: true, Debounce: 5 * time.Second},
	} {
		got, err := ParseOnDuplicate(text)
		if err != nil || got != want || got.String() != text {
			t.Errorf("%q: got %+v, %q, %v", text, got, got, err)
		}
	}
	for _, text := range []string{"", "debounce", "debounce soon", "debounce 0s", "debounce 25h", "replace 5s", "drop"} {
		if got, err := ParseOnDuplicate(text); err == nil {
			t.Errorf("%q: got %+v, want an error", text, got)
		}
	}
}
