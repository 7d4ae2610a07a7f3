package jobs

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/httpapi"
	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

// Every job and every schedule that is made over HTTP belongs to the caller's owner, see
// service.Authority. Users see and change their own; what belongs to others is not there for them. Services,
// which are the app itself, and operators see all, and may say for whom they make something. What was made
// before there were owners belongs to nobody, and so do the jobs of configured schedules and of other backends.

// maxOwnSchedules is how many schedules one owner may have.
const maxOwnSchedules = 100

// guard adds routes for those whom check lets pass.
func (s *Service) guard(rt *httpapi.Router, check func(service.Caller) error) httpapi.Guard {
	return httpapi.Guard{Router: rt, Authority: s.authority, Backend: "jobs", Check: check}
}

// orderOf checks the request and whether its caller may make it, and turns it into an order.
func (s *Service) orderOf(ctx context.Context, q *request, now time.Time) (order, error) {
	c := httpapi.CallerOf(ctx)
	owner, err := httpapi.OwnerOf(c, q.Owner)
	if err != nil {
		return order{}, err
	}
	if err = s.checkUser(c, cmp.Or(q.Queue, defaultQueue), q); err != nil {
		return order{}, err
	}
	if !c.Any() && q.Key == nil { // or all users without a key would take turns as one
		key := ownKey(c.Owner)
		q.Key = &key
	}
	o, err := s.check(q, now)
	if err != nil {
		return order{}, err
	}
	o.args.Owner = owner
	return o, nil
}

// checkUser says what of a request is not a user's to say.
func (s *Service) checkUser(c service.Caller, queue string, q *request) error {
	if c.Any() {
		return nil
	}
	settings, ok := s.queues[queue]
	if !ok || !s.isPublic(queue) {
		return unfit("There is no queue of that name, known are: %s.", s.userQueues())
	}
	if (q.Target != "" || q.Callback != "") && !settings.UserTargets {
		return problem.New(problem.Forbidden, "target and callback are for the app itself and for operators to name: the queue %s does not have user_targets.", queue)
	}
	if !settings.Pull && settings.Target == "" && !settings.UserTargets {
		return problem.New(problem.Forbidden, "The queue %s has no target of its own, so only the app itself and operators may put jobs into it.", queue)
	}
	if q.Key != nil && *q.Key != ownKey(c.Owner) {
		return problem.New(problem.Forbidden, "key: the bounds of a key are shared by all who name it, so a user may only name %q, the caller's own.", ownKey(c.Owner))
	}
	return nil
}

// ownKey is the key by which a user's jobs take turns with others': the owner, or a hash of one that no key can be.
func ownKey(owner string) string {
	if len(owner) <= maxKey && !hasControl(owner) {
		return owner
	}
	sum := sha256.Sum256([]byte(owner))
	return "owner:" + hex.EncodeToString(sum[:16])
}

// isPublic reports whether users may put jobs into the queue.
func (s *Service) isPublic(queue string) bool {
	if isInternal(queue) {
		return false
	}
	if public := s.queues[queue].Public; public != nil {
		return *public
	}
	_, fed := s.fed.Load(queue)
	return !fed
}

// userQueues lists the queues that users may name.
func (s *Service) userQueues() string {
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(s.queues)), func(n string) bool { return !s.isPublic(n) })
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// restrict leaves a user what is the user's own.
func (f *filter) restrict(c service.Caller) {
	if !c.Any() {
		f.Owner = c.Owner
	}
}
