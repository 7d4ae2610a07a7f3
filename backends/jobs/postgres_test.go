package jobs

import (
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/integration/pgtest"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

// onPostgres makes all tests of the package work on PostgreSQL.
const onPostgres = "GATEHOUSE_JOBS_TEST_POSTGRES"

var databases sync.Map // by data directory

// SettingsOn are those of a host on dir, with the database that the tests run on. The same directory
// has the same database.
func SettingsOn(t testing.TB, dir string) service.Settings {
	t.Helper()
	s := service.Settings{DataDir: dir}
	if os.Getenv(onPostgres) == "" {
		return s
	}
	if url, ok := databases.Load(dir); ok {
		s.Database = url.(string)
		return s
	}
	s.Database = pgtest.Start(t).URL
	databases.Store(dir, s.Database)
	return s
}

// onlySQLite are the tests whose statements, or whose subject, are SQLite's.
const onlySQLite = "^(TestOnPostgres|TestListener.*|TestKilledProcessLosesNothing|TestKeep.*|TestSweep.*|TestUniqueKey.*|TestUnconfiguredQueue.*|TestBusy.*|TestOrphans.*|TestCron.*|TestRate.*|Fuzz.*)$"

// statements are the tests whose statements differ between the two databases, or lock rows there. Only the
// long suite runs all.
const statements = "^(TestBounds.*|TestKeysTakeTurns|TestConcurrency.*|TestLostStart.*|TestUpgrade.*|TestCallbacks.*|TestFreedSlot.*|TestRetry.*|TestReapers.*|TestSchedule(Overlap|Cancels|Waits|Gives).*|TestOrdered.*|TestDuplicate.*|TestRiver.*|TestOwner.*|TestStoppedWorker.*)$"

// TestOnPostgres runs other tests once more, on PostgreSQL.
func TestOnPostgres(t *testing.T) {
	t.Parallel()
	if os.Getenv(onPostgres) != "" {
		t.Skip("this is that run")
	}
	args := []string{"-test.timeout=10m", "-test.skip=" + onlySQLite}
	if os.Getenv("GATEHOUSE_LONG") == "" {
		args = append(args, "-test.run="+statements)
	}
	if testing.Verbose() {
		args = append(args, "-test.v")
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), onPostgres+"=1")
	out, err := cmd.CombinedOutput()
	if testing.Verbose() || err != nil {
		t.Logf("%s", out)
	}
	if err != nil || !strings.Contains(string(out), "PASS") {
		t.Error("tests fail on PostgreSQL:", err)
	}
}
