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
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/service"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
	"github.com/gatehouse-proxy/gatehouse/internal/volume"
)

// floor is the space that uploads leave free on the disk, since the database lives there as well.
const floor = 64 << 20

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
	volume *volume.Volume
	floor  int64
	// short is the size of an upload that was refused for want of room, 0 if none was since one of its
	// size would have found room.
	short  atomic.Int64
	flight flight
}

// OpenDisk opens the directory, creating it with mode 0700 if it is not there, and deletes what
// unfinished uploads left. Its URLs are base + "/" + bucket + "/" + key.
func OpenDisk(root, bucket string, keys Keys) (*Disk, error) {
	d := &Disk{root: root, bucket: bucket, keys: keys, floor: floor, flight: flight{puts: map[string][]*landing{}}}
	if err := d.makeDirs(); err != nil {
		return nil, fmt.Errorf("creating the object store: %w", err)
	}
	var err error
	if d.volume, err = volume.Of(root); err != nil {
		return nil, fmt.Errorf("opening the object store: %w", err)
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
	d.flight.end(key)
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
	room, err := d.volume.Room()
	if err != nil {
		return err
	}
	short := d.short.Load()
	if room >= d.floor+short {
		d.short.CompareAndSwap(short, 0)
		return nil
	}
	return service.Degraded(fmt.Errorf("files are full: %s are free for more and %s have to stay, so new files are refused",
		unit.Size(room), unit.Size(d.floor)))
}

// reserve takes room for an upload, of which the floor stays free.
func (d *Disk) reserve(size int64) (*volume.Reservation, error) {
	r, err := d.volume.Reserve(size+maxTrailer, d.floor)
	if errors.Is(err, volume.ErrFull) {
		d.short.Store(size + maxTrailer)
	}
	return r, err
}

// bodyError is a failure of the sender, not of the disk.
type bodyError struct{ error }

func (e bodyError) Unwrap() error { return e.error }

// incoming is an object on its way to the disk.
type incoming struct {
	key, contentType string
	size             int64
	// body has exactly size bytes, if its sender keeps to what was signed.
	body io.Reader
	// stop makes a read of body that waits end soon. It may be called at any time.
	stop func()
	// create leaves an object as it is that is there: the error is fs.ErrExist, also for all but one of
	// several at once.
	create bool
	// admit says why the object may not be stored, before any of it is read.
	admit func() error
}

// put stores the object and returns its ETag. It reserves the room for all of it first.
func (d *Disk) put(in incoming) (etag string, err error) {
	turn := d.flight.begin(in.key, in.stop)
	defer d.flight.leave(in.key, turn)
	if err = in.admit(); err != nil {
		return "", err
	}
	room, err := d.reserve(in.size)
	if err != nil {
		return "", err
	}
	defer room.Release()
	f, err := os.CreateTemp(d.tmp(), "put-*") // mode 0600
	if err != nil {
		return "", fmt.Errorf("creating an object: %w", err)
	}
	defer func() { _ = os.Remove(f.Name()) }()
	etag, err = writeObject(f, in, room)
	err = errors.Join(err, f.Close())
	if over := turn.over(); over != nil {
		return "", over
	}
	if err != nil {
		return "", err
	}
	path := d.path(in.key)
	if in.create {
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
	if turn.deleted() { // perhaps before it had its name
		return "", errors.Join(errDeleted, os.Remove(path))
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

func writeObject(f *os.File, in incoming, room *volume.Reservation) (etag string, err error) {
	hash := sha256.New()
	buf := make([]byte, 128<<10)
	for left := in.size; left > 0; {
		n, readErr := in.body.Read(buf[:min(int64(len(buf)), left)])
		if _, err = f.Write(buf[:n]); err != nil {
			return "", fmt.Errorf("writing an object: %w", err)
		}
		room.Written(int64(n))
		_, _ = hash.Write(buf[:n])
		if left -= int64(n); left > 0 && readErr != nil {
			return "", bodyError{readErr}
		}
	}
	etag = `"` + hex.EncodeToString(hash.Sum(nil)) + `"`
	end, err := json.Marshal(trailer{Key: in.key, ContentType: in.contentType, ETag: etag})
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
