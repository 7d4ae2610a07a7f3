package objects

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// floor is the space that uploads leave free on the disk, since the database lives there as well.
const floor = 64 << 20

// errNoRoom says that an upload would leave less free space than the floor.
var errNoRoom = errors.New("there is too little free space on the disk")

// Disk is a Store in a directory. An object is one file: its content, then a JSON trailer with what
// is known of it. The file is written under tmp/, synced, and only then linked to its name under
// blobs/, so an object is there as a whole or not at all, whenever the process dies. Names are
// hashes of keys: nothing that a client sends becomes part of a path.
//
// One process alone may have the directory open, and should open it once.
type Disk struct {
	root   string
	bucket string
	keys   Keys
	floor  uint64
}

// OpenDisk opens the directory, creating it with mode 0700 if it is not there, and deletes what
// unfinished uploads left. Its URLs are base + "/" + bucket + "/" + key.
func OpenDisk(root, bucket string, keys Keys) (*Disk, error) {
	d := &Disk{root: root, bucket: bucket, keys: keys, floor: floor}
	if err := d.makeDirs(); err != nil {
		return nil, fmt.Errorf("creating the object store: %w", err)
	}
	left, err := os.ReadDir(d.tmp())
	if err != nil {
		return nil, fmt.Errorf("reading the object store: %w", err)
	}
	for _, f := range left {
		if err = os.Remove(filepath.Join(d.tmp(), f.Name())); err != nil {
			return nil, fmt.Errorf("deleting an unfinished upload: %w", err)
		}
	}
	return d, nil
}

// makeDirs makes every directory that objects will stand in, so that none is new at a power cut.
func (d *Disk) makeDirs() error {
	if err := os.MkdirAll(d.tmp(), 0o700); err != nil {
		return err
	}
	if err := os.MkdirAll(d.blobs(), 0o700); err != nil {
		return err
	}
	for i := range 256 {
		if err := os.Mkdir(filepath.Join(d.blobs(), fmt.Sprintf("%02x", i)), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return errors.Join(syncDir(d.blobs()), syncDir(d.root), syncDir(filepath.Dir(d.root)))
}

func (d *Disk) blobs() string { return filepath.Join(d.root, "blobs") }
func (d *Disk) tmp() string   { return filepath.Join(d.root, "tmp") }

func (d *Disk) path(key string) string {
	sum := sha256.Sum256([]byte(key))
	name := hex.EncodeToString(sum[:])
	return filepath.Join(d.blobs(), name[:2], name)
}

// PresignPut implements Store.
func (d *Disk) PresignPut(now time.Time, base *url.URL, key string, spec PutSpec, ttl time.Duration) (string, map[string]string) {
	header := http.Header{
		"Content-Length": {strconv.FormatInt(spec.Size, 10)},
		"Content-Type":   {spec.ContentType},
		"If-None-Match":  {"*"},
	}
	u := d.keys.Presign(now, http.MethodPut, d.url(base, key), header, ttl)
	return u, map[string]string{"Content-Type": spec.ContentType, "If-None-Match": "*"}
}

// PresignGet implements Store.
func (d *Disk) PresignGet(now time.Time, base *url.URL, key string, spec GetSpec, ttl time.Duration) string {
	u, query := d.url(base, key), url.Values{}
	if spec.Disposition != "" {
		query.Set(responseDisposition, spec.Disposition)
	}
	if spec.ContentType != "" {
		query.Set(responseType, spec.ContentType)
	}
	u.RawQuery = query.Encode()
	return d.keys.Presign(now, http.MethodGet, u, nil, ttl)
}

func (d *Disk) url(base *url.URL, key string) *url.URL {
	return &url.URL{Scheme: base.Scheme, Host: base.Host, Path: "/" + d.bucket + "/" + key}
}

// Stat implements Store.
func (d *Disk) Stat(_ context.Context, key string) (Info, error) {
	f, info, err := d.open(key)
	if err != nil {
		return Info{}, err
	}
	return info, f.Close()
}

// Open implements Store.
func (d *Disk) Open(_ context.Context, key, etag string) (io.ReadCloser, error) {
	f, info, err := d.open(key)
	if err != nil {
		return nil, err
	}
	if info.ETag != etag {
		return nil, errors.Join(ErrChanged, f.Close())
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(f, 0, info.Size), f}, nil
}

// Delete implements Store.
func (d *Disk) Delete(_ context.Context, key string) error {
	path := d.path(key)
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("deleting an object: %w", err)
	}
	return nil
}

// Check implements Store.
func (d *Disk) Check(context.Context) error {
	const writable = 2
	for _, dir := range []string{d.blobs(), d.tmp()} {
		if err := syscall.Access(dir, writable); err != nil {
			return fmt.Errorf("the object store %s is not writable: %w", dir, err)
		}
	}
	return d.room(0)
}

// room says whether size more bytes leave the floor free.
func (d *Disk) room(size int64) error {
	var st syscall.Statfs_t
	if err := syscall.Statfs(d.root, &st); err != nil {
		return fmt.Errorf("asking for free space: %w", err)
	}
	if free := st.Bavail * uint64(st.Bsize); free < d.floor+uint64(size) {
		return errNoRoom
	}
	return nil
}

// bodyError is a failure of the sender, not of the disk.
type bodyError struct{ error }

func (e bodyError) Unwrap() error { return e.error }

// put stores exactly size bytes of body and returns their ETag. With create, an object that is
// there stays as it is and the error is fs.ErrExist, also for all but one of several at once.
func (d *Disk) put(key, contentType string, size int64, body io.Reader, create bool) (etag string, err error) {
	if err = d.room(size); err != nil {
		return "", err
	}
	f, err := os.CreateTemp(d.tmp(), "put-*") // mode 0600
	if err != nil {
		return "", fmt.Errorf("creating an object: %w", err)
	}
	defer func() { _ = os.Remove(f.Name()) }()
	etag, err = writeObject(f, key, contentType, size, body)
	if err = errors.Join(err, f.Close()); err != nil {
		return "", err
	}
	path := d.path(key)
	if create {
		err = os.Link(f.Name(), path)
	} else {
		err = os.Rename(f.Name(), path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return "", fmt.Errorf("naming an object: %w", err)
	}
	return etag, nil
}

// trailer stands behind the content of every object.
type trailer struct {
	Key         string `json:"key"`
	ContentType string `json:"content_type"`
	ETag        string `json:"etag"`
}

// The file ends with the trailer's length as a big-endian uint32 and magic.
const (
	magic      = "GHOBJ01\n"
	endLen     = 4 + len(magic)
	maxTrailer = 16 << 10
)

func writeObject(f *os.File, key, contentType string, size int64, body io.Reader) (etag string, err error) {
	hash := sha256.New()
	buf := make([]byte, 128<<10)
	for left := size; left > 0; {
		n, readErr := body.Read(buf[:min(int64(len(buf)), left)])
		if _, err = f.Write(buf[:n]); err != nil {
			return "", fmt.Errorf("writing an object: %w", err)
		}
		_, _ = hash.Write(buf[:n])
		if left -= int64(n); left > 0 && readErr != nil {
			return "", bodyError{readErr}
		}
	}
	etag = `"` + hex.EncodeToString(hash.Sum(nil)) + `"`
	end, err := json.Marshal(trailer{Key: key, ContentType: contentType, ETag: etag})
	if err != nil {
		return "", fmt.Errorf("encoding an object's trailer: %w", err)
	}
	end = append(binary.BigEndian.AppendUint32(end, uint32(len(end))), magic...)
	if _, err = f.Write(end); err == nil {
		err = f.Sync()
	}
	if err != nil {
		return "", fmt.Errorf("writing an object: %w", err)
	}
	return etag, nil
}

// open is the object's file and what is known of it. Content and trailer are of one moment, also
// when the object is deleted or replaced meanwhile.
func (d *Disk) open(key string) (*os.File, Info, error) {
	f, err := os.Open(d.path(key))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, Info{}, ErrNotFound
	}
	if err != nil {
		return nil, Info{}, fmt.Errorf("opening an object: %w", err)
	}
	info, err := readTrailer(f)
	if err != nil {
		return nil, Info{}, errors.Join(fmt.Errorf("reading the object %s: %w", f.Name(), err), f.Close())
	}
	return f, info, nil
}

func readTrailer(f *os.File) (Info, error) {
	st, err := f.Stat()
	if err != nil {
		return Info{}, err
	}
	var end [endLen]byte
	if _, err = f.ReadAt(end[:], st.Size()-int64(endLen)); err != nil {
		return Info{}, err
	}
	n := int64(binary.BigEndian.Uint32(end[:]))
	size := st.Size() - int64(endLen) - n
	if !bytes.HasSuffix(end[:], []byte(magic)) || n > maxTrailer || size < 0 {
		return Info{}, errors.New("the file is damaged: its trailer is missing")
	}
	raw := make([]byte, n)
	if _, err = f.ReadAt(raw, size); err != nil {
		return Info{}, err
	}
	var t trailer
	if err = json.Unmarshal(raw, &t); err != nil {
		return Info{}, fmt.Errorf("the file is damaged: %w", err)
	}
	return Info{Size: size, ContentType: t.ContentType, ETag: t.ETag, Modified: st.ModTime()}, nil
}

// syncDir makes the names in a directory survive a power cut.
func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
