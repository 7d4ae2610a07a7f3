package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gatehouse-proxy/gatehouse/internal/secret"
)

const (
	// kubeLink is the link that Kubernetes replaces when a mounted secret changes: the files are links
	// through it into a directory that never changes.
	kubeLink = "..data"
	// swapTries is how often a file that vanished between two looks is looked for: the directory may
	// have been swapped in between.
	swapTries = 5
	// maxFiles bounds the versions of a directory.
	maxFiles = 100
	// maxLinks bounds the links that are followed to find what to watch.
	maxLinks = 10
)

// retried runs read again while what it looks for vanishes under it.
func retried(read func() ([]secret.Version, error)) (versions []secret.Version, err error) {
	for range swapTries {
		if versions, err = read(); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	return versions, err
}

// fileStore is a file.
type fileStore struct {
	path string
	warn func(text string)
}

// Fetch reads the file.
func (s *fileStore) Fetch(context.Context) ([]secret.Version, error) {
	return retried(func() ([]secret.Version, error) { return readFile(s.path, filepath.Base(s.path), s.warn) })
}

// readFile reads the versions of one file. A file that Kubernetes mounts is not judged by its mode,
// which is 0644 unless the pod says otherwise, and others have no way into the pod.
func readFile(path, label string, warn func(string)) ([]secret.Version, error) {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() { // opening a pipe would wait for its writer
		return nil, fmt.Errorf("%s is not a regular file, name a file with the secret, or a directory with dir PATH", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("the file cannot be read, create it or correct the path: %w", err)
	}
	defer func() { _ = f.Close() }()
	content, err := io.ReadAll(io.LimitReader(f, secret.MaxContent+1))
	if err != nil {
		return nil, fmt.Errorf("the file cannot be read: %w", err)
	}
	if info, err = f.Stat(); err == nil && info.Mode().Perm()&0o004 != 0 && !inKube(path) {
		warn("every user of this machine may read the file " + path + ": take that away, chmod o-r " + path)
	}
	versions, err := secret.Parse(label, content)
	if err != nil {
		return nil, fmt.Errorf("the file %s: %w", path, err)
	}
	return versions, nil
}

// inKube says that Kubernetes keeps the file or directory, and would not know what others write to it.
func inKube(path string) bool {
	if _, err := os.Lstat(filepath.Join(path, kubeLink)); err == nil {
		return true
	}
	for _, hop := range hops(path) {
		if filepath.Base(hop) == kubeLink || strings.Contains(hop, "/"+kubeLink+"/") {
			return true
		}
	}
	return false
}

// hops are path and where it leads, if it is a link, each as it is written.
func hops(path string) []string {
	all := []string{path}
	for range maxLinks {
		to, err := os.Readlink(path)
		if err != nil {
			break
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(path), to)
		}
		path = to
		all = append(all, path)
	}
	return all
}

// places are the directories in which an event may mean a change, with the names that it must be of;
// no names are all.
func (s *fileStore) places() map[string][]string {
	all := map[string][]string{}
	for _, hop := range hops(s.path) {
		dir, name := filepath.Split(hop)
		dir = filepath.Clean(dir)
		if i := strings.Index(hop, "/"+kubeLink+"/"); i >= 0 {
			dir, name = hop[:i], kubeLink // the directory behind it never changes
		}
		all[dir] = append(all[dir], name, kubeLink)
	}
	return all
}

// dirStore is a directory of which each file is a version.
type dirStore struct {
	path string
	warn func(text string)
}

// dirFile is one file of it.
type dirFile struct {
	name     string
	versions []secret.Version
}

// Fetch reads the directory. All of it is of one time where Kubernetes keeps it.
func (s *dirStore) Fetch(context.Context) ([]secret.Version, error) {
	return retried(func() ([]secret.Version, error) {
		files, err := s.files()
		if err != nil {
			return nil, err
		}
		return flatten(s.path, files)
	})
}

func flatten(path string, files []dirFile) ([]secret.Version, error) {
	var all []secret.Version
	of := map[string]string{}
	for _, f := range files {
		for _, v := range f.versions {
			if other, ok := of[v.Label]; ok {
				return nil, fmt.Errorf("the files %s and %s of the directory %s have the same label %.80q, give each its own", other, f.name, path, v.Label)
			}
			of[v.Label] = f.name
			all = append(all, v)
		}
	}
	return all, nil
}

// files are the files, newest first.
func (s *dirStore) files() ([]dirFile, error) {
	dir := s.path
	if to, err := filepath.EvalSymlinks(filepath.Join(dir, kubeLink)); err == nil {
		dir = to // once for all files
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("the directory cannot be read, create it or correct the path: %w", err)
	}
	entries = slices.DeleteFunc(entries, func(e fs.DirEntry) bool {
		if strings.HasPrefix(e.Name(), ".") {
			return true
		}
		info, err := os.Stat(filepath.Join(dir, e.Name()))
		return err == nil && !info.Mode().IsRegular()
	})
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return natural(b.Name(), a.Name()) })
	switch {
	case len(entries) == 0:
		return nil, fmt.Errorf("the directory %s has no file, put one with the secret into it; hidden files do not count", s.path)
	case len(entries) > maxFiles:
		return nil, fmt.Errorf("the directory %s has more than %d files, remove those whose time is over", s.path, maxFiles)
	}
	warn := s.warn
	if dir != s.path {
		warn = func(string) {}
	}
	files := make([]dirFile, 0, len(entries))
	for _, e := range entries {
		versions, err := readFile(filepath.Join(dir, e.Name()), e.Name(), warn)
		if err != nil {
			return nil, err
		}
		files = append(files, dirFile{e.Name(), versions})
	}
	return files, nil
}

func (s *dirStore) places() map[string][]string {
	return map[string][]string{filepath.Clean(s.path): nil}
}

// envStore is an environment variable.
type envStore string

// Fetch reads the variable.
func (s envStore) Fetch(context.Context) ([]secret.Version, error) {
	content := os.Getenv(string(s))
	if content == "" {
		return nil, fmt.Errorf("the environment variable %s is not set, set it before the start", string(s))
	}
	versions, err := secret.Parse(string(s), []byte(content))
	if err != nil {
		return nil, fmt.Errorf("the environment variable %s: %w", string(s), err)
	}
	return versions, nil
}
