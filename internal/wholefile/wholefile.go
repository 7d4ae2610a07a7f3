// Package wholefile writes files that are there in full or not at all.
package wholefile

import (
	"errors"
	"os"
	"path/filepath"
)

// Write writes a file of mode 0600, all of it or nothing: it is in a new place and synced before
// publish, os.Rename or os.Link, gives it its name. The folder is made where there is none.
func Write(path string, b []byte, publish func(from, to string) error) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	_, err = tmp.Write(b)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return publish(tmp.Name(), path)
}
