package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/secret"
	"github.com/gatehouse-proxy/gatehouse/internal/wholefile"
)

// lockEvery is how often a lock that another has is tried again.
const lockEvery = 10 * time.Millisecond

// halfWritten is what wholefile names a file that is being written.
var halfWritten = regexp.MustCompile(`^\.new-[0-9]+$`)

// lock lets one rotation at a time change the files of a directory, in all processes of this machine,
// and removes what one that was killed has left. A file system without locks has none.
func lock(ctx context.Context, dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("the directory cannot be read, create it or correct the path: %w", err)
	}
	unlock = func() { _ = f.Close() } // which ends the lock
	tick := time.NewTicker(lockEvery)
	defer tick.Stop()
	for errors.Is(syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB), syscall.EWOULDBLOCK) {
		select {
		case <-ctx.Done():
			unlock()
			return nil, fmt.Errorf("waiting for another rotation in %s: %w", dir, ctx.Err())
		case <-tick.C:
		}
	}
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if info, err := e.Info(); err == nil && halfWritten.MatchString(e.Name()) && info.Mode().IsRegular() && time.Since(info.ModTime()) > rotateTime {
			_ = os.Remove(filepath.Join(dir, e.Name()))
		}
	}
	return unlock, nil
}

// target is where path leads.
func target(path string) string {
	if to, err := filepath.EvalSymlinks(path); err == nil {
		return to
	}
	return path
}

// format is the versions document for the file of that path.
func format(path string, versions []secret.Version) ([]byte, error) {
	content, err := secret.Format(versions)
	if err != nil {
		return nil, notRotated("%s: %s", path, err)
	}
	return content, nil
}

// write writes the file that path leads to; publish gives it its name.
func write(path string, content []byte, publish func(from, to string) error) error {
	if len(content) > secret.MaxContent {
		return notRotated("%s would have more than %d KiB: remove versions whose time is over", path, secret.MaxContent>>10)
	}
	err := wholefile.Write(target(path), content, publish)
	switch {
	case errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS):
		return notRotated("%s cannot be written by the gateway (%s): write the new version where the file comes from, or let the gateway write its directory", path, reason(err))
	case errors.Is(err, fs.ErrExist):
		return notRotated("%s is there already, and is no version: move it away", path)
	case err != nil:
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// replace gives from the name of the file to, with its owner, if that is allowed, its group and its mode. A
// group that cannot be kept gives no right to another.
func replace(from, to string) error {
	info, err := os.Stat(to)
	if err != nil {
		return os.Rename(from, to)
	}
	mode := info.Mode().Perm()
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && os.Chown(from, int(owner.Uid), int(owner.Gid)) != nil && os.Chown(from, -1, int(owner.Gid)) != nil {
		mode &^= 0o070
	}
	if err = os.Chmod(from, mode); err != nil {
		return err
	}
	return os.Rename(from, to)
}

// reason is the system's word for an error.
func reason(err error) string {
	if e, ok := errors.AsType[syscall.Errno](err); ok {
		return e.Error()
	}
	return "permission denied"
}
