package jwtauth

import (
	"net/http"
	"testing"
)

func TestTwinsAreDeleted(t *testing.T) {
	ours := canonical([]ClaimHeader{{"sub", "X-User-Id"}})
	for name, kept := range map[string]bool{
		"X-User-Id": false, "X_User_Id": false, "x_user_id": false, "X.User.Id": false, "X-User_Id": false, "X_USER.ID": false,
		"X!User!Id": false, "X~user~id": false, "X'User`Id": false, "X*User*Idé": true,
		"X-User-Id2": true, "X_User_Ids": true, "X-UserId": true, "Via_X": true,
	} {
		h := http.Header{name: {"admin"}, "Accept": {"*/*"}}
		ours.clear(h)
		if _, there := h[name]; there != kept || len(h["Accept"]) != 1 {
			t.Errorf("%s: got there %v, want %v", name, there, kept)
		}
	}
}
