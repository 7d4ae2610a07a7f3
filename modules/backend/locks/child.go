package locks

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
)

// The exit codes of a command that cannot be run, as shells have them, and what they add to a signal.
const (
	exitCannotRun = 126
	exitNotFound  = 127
	exitSignal    = 128
)

// passedOn are the signals that the command gets when gatehouse does.
var passedOn = []os.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2}

// signals are those to pass on, from now until stop. What was ignored when gatehouse began, as under
// nohup, stays ignored, for the command too.
func signals() (got chan os.Signal, stop func()) {
	got = make(chan os.Signal, 8)
	for _, s := range passedOn {
		if !signal.Ignored(s) {
			signal.Notify(got, s)
		}
	}
	return got, func() { signal.Stop(got) }
}

// find is the command's file, or an error with the exit code.
func find(name string) (path string, code int, err error) {
	path, err = exec.LookPath(name)
	switch {
	case err == nil, errors.Is(err, exec.ErrDot):
		return path, 0, err
	case errors.Is(err, fs.ErrPermission):
		return "", exitCannotRun, err
	}
	return "", exitNotFound, err
}

// child is a command that runs.
type child struct {
	cmd  *exec.Cmd
	own  bool // it leads a group of processes of its own
	done chan struct{}
}

// startChild starts the command with what gatehouse itself has for input and output. It gets a group of
// its own, so that all of it can be stopped; but at a terminal it stays in the group that may read there,
// and gets what is typed itself. If gatehouse is killed, the kernel stops the command where it can.
func startChild(path string, args, env []string) (*child, error) {
	c := &child{cmd: &exec.Cmd{Path: path}, own: !atTerminal(), done: make(chan struct{})}
	c.cmd.Args, c.cmd.Env = args, append(os.Environ(), env...)
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: c.own}
	stopWithParent(c.cmd.SysProcAttr)
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // the kernel takes the end of the thread that started it for the parent's
		err := c.cmd.Start()
		started <- err
		if err == nil {
			_ = c.cmd.Wait() // its state says how it ended
			close(c.done)
		}
	}()
	return c, <-started
}

// atTerminal says whether there is a terminal whose keys send signals.
func atTerminal() bool {
	f, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	_ = f.Close()
	return true
}

// pass sends a signal that gatehouse got. What is typed at a terminal has reached the command already.
func (c *child) pass(s os.Signal) {
	if !c.own && (s == syscall.SIGINT || s == syscall.SIGQUIT) {
		return
	}
	c.signal(s.(syscall.Signal))
}

// signal signals the command, with all that it has started in its group.
func (c *child) signal(s syscall.Signal) {
	pid := c.cmd.Process.Pid
	if c.own {
		pid = -pid
	}
	_ = syscall.Kill(pid, s) // it may have ended
}

// others says whether processes that the command has started are left in its group.
func (c *child) others() bool {
	return c.own && syscall.Kill(-c.cmd.Process.Pid, 0) == nil
}

// code is the exit code of a command that has ended.
func (c *child) code() int {
	if status, ok := c.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return exitSignal + int(status.Signal())
	}
	return c.cmd.ProcessState.ExitCode()
}
