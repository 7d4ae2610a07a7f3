// Package uploads lets clients upload files without sending them through the app. A client asks
// for a presigned URL, puts the bytes straight into the object store, and confirms; a job then
// looks at the first bytes, and the file is ready or rejected.
package uploads

import (
	"context"
	"crypto/rand"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/httpapi"
	"github.com/gatehouse-proxy/gatehouse/backends/internal/objects"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
	"github.com/gatehouse-proxy/gatehouse/internal/sqldb"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

const (
	defaultMaxSize = 10 << 20
	defaultExpires = 5 * time.Minute
	// largest is the largest object that one PUT can create in S3.
	largest = 5 << 30
	// bucket and prefix make the store's URLs stand under /uploads/objects/, so that the one mount
	// of this backend serves them too.
	bucket = "uploads"
	prefix = "objects/"
	// jobKind is the kind of the job that examines a confirmed upload.
	jobKind = "uploads.process"
	// checkTime bounds a health check.
	checkTime = 2 * time.Second
)

//go:embed migrations
var migrations embed.FS

// Config is what may be uploaded, and how. The zero value works.
type Config struct {
	// Allow are the media types that may be uploaded, without parameters.
	// Default: image/jpeg, image/png, image/webp and application/pdf.
	Allow []string `json:"allow,omitempty"`
	// MaxSize is the largest upload. Default: 10MiB; at most 5GiB.
	MaxSize unit.Size `json:"max_size,omitempty"`
	// Expires is how long presigned URLs live, in whole seconds. An upload that has begun may end
	// later. Default: 5m; at least 1s, at most 7d.
	Expires unit.Duration `json:"expires,omitempty"`
	// PublicURL is the scheme and host under which clients reach the presigned URLs, such as
	// https://files.example.com. Default: those of the request that asks for the URL.
	PublicURL string `json:"public_url,omitempty"`
	// AllowEmpty lets files of zero bytes be uploaded, where their type does not begin with a signature as
	// images and PDF do. Default: size must be at least 1.
	AllowEmpty bool `json:"allow_empty,omitempty"`
	// Quota is how many bytes the uploads of one owner may have together: those that wait for their bytes
	// by the size that was declared, those that are stored, and the ended ones until their URLs expire. The
	// app's own, which have no owner, are not bounded. Default: no bound.
	Quota unit.Size `json:"quota,omitempty"`
	// Authority says whose an upload is. The scope of services is uploads:write.
	service.Authority
}

// Queue is what uploads needs of the job queue.
type Queue interface {
	// EnqueueTx puts a job into the transaction; it runs after the commit.
	EnqueueTx(ctx context.Context, tx *sql.Tx, kind string, payload []byte) (id string, err error)
	// Handle sets the worker of a kind.
	Handle(kind string, work func(ctx context.Context, payload []byte) error)
	// Poke says that a transaction with a job has been committed.
	Poke()
}

// Deps are what New needs.
type Deps struct {
	DB    *sqldb.DB
	Store objects.Store
	// Endpoint answers the presigned URLs of Store.
	Endpoint *objects.Endpoint
	Queue    Queue
	Log      *slog.Logger
	// Now is the clock.
	Now func() time.Time
}

// Service is the uploads backend.
type Service struct {
	Deps
	allow     []string
	maxSize   int64
	minSize   int64
	quota     int64 // 0 for no bound
	expires   time.Duration
	public    *url.URL // nil if clients reach the URLs where they asked for them
	authority service.Authority
	presigned http.Handler
	router    *httpapi.Router
}

// Validate checks the settings; its errors say what to write instead.
func (c Config) Validate() error {
	for _, t := range c.Allow {
		if !isMediaType(t) {
			return fmt.Errorf("allow: %q is not a media type, write a type and a subtype without parameters, such as image/png", t)
		}
	}
	if c.MaxSize < 0 || c.MaxSize > largest {
		return fmt.Errorf("max_size must be at most 5GiB, not %s", c.MaxSize)
	}
	if c.Quota < 0 {
		return errors.New("quota must not be negative, leave it out for no bound")
	}
	if d := c.Expires.Std(); d != 0 && (d < time.Second || d > 7*24*time.Hour || d%time.Second != 0) {
		return fmt.Errorf("expires must be from 1s to 7d in whole seconds, not %s", d)
	}
	if err := c.Authority.Validate(); err != nil {
		return err
	}
	_, err := parsePublicURL(c.PublicURL)
	return err
}

// Open makes the service on the host's data directory and job queue.
func (c Config) Open(ctx context.Context, h *service.Host) (service.Service, error) {
	queue, err := service.Need[Queue](ctx, h, "jobs")
	if err != nil {
		return nil, err
	}
	disk, err := openDisk(h)
	if err != nil {
		return nil, err
	}
	if err = Migrate(ctx, h.DB); err != nil {
		return nil, err
	}
	log := h.Log.With("backend", "uploads")
	return New(c, Deps{DB: h.DB, Store: disk, Endpoint: disk.Endpoint(log, time.Now), Queue: queue, Log: log, Now: time.Now})
}

// Migrate brings the backend's tables to their newest version.
func Migrate(ctx context.Context, db *sqldb.DB) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("reading the migrations of uploads: %w", err)
	}
	return db.Migrate(ctx, "uploads", files)
}

// openedDisk is the store on disk, opened once per process: opening it deletes unfinished uploads,
// and during a reload those of the configuration before are still being received.
type openedDisk struct {
	mu   sync.Mutex
	disk *objects.Disk
}

func openDisk(h *service.Host) (*objects.Disk, error) {
	opened := h.Memory("objects", func() any { return new(openedDisk) }).(*openedDisk)
	opened.mu.Lock()
	defer opened.mu.Unlock()
	if opened.disk != nil {
		return opened.disk, nil
	}
	secrets, err := h.GeneratedKey("objects-secret", func() ([]byte, error) { return []byte(rand.Text() + rand.Text()), nil })
	if err != nil {
		return nil, err
	}
	keys := objects.Keys{AccessKey: "gatehouse", Region: "us-east-1", Secrets: secrets}
	opened.disk, err = objects.OpenDisk(filepath.Join(h.Dir, "objects"), bucket, keys)
	return opened.disk, err
}

// New is the service on the given resources. The tables must be migrated.
func New(c Config, d Deps) (*Service, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	public, err := parsePublicURL(c.PublicURL)
	if err != nil {
		return nil, err
	}
	s := &Service{
		Deps: d, allow: normalTypes(c.Allow), maxSize: int64(c.MaxSize), minSize: 1, quota: int64(c.Quota),
		expires: c.Expires.Or(defaultExpires), public: public, authority: c.Authority,
	}
	if s.maxSize == 0 {
		s.maxSize = defaultMaxSize
	}
	if c.AllowEmpty {
		s.minSize = 0
	}
	s.presigned = d.Endpoint.Admitting(s.admit)
	s.router = httpapi.NewRouter(d.Log)
	s.router.Handle(http.MethodPost, "/uploads/presign", s.presign)
	s.router.Handle(http.MethodPost, "/uploads/confirm", s.confirm)
	s.router.Handle(http.MethodGet, "/uploads/{id}", s.show)
	s.router.Handle(http.MethodDelete, "/uploads/{id}", s.remove)
	s.router.Handle(http.MethodGet, "/uploads/{id}/content", s.content)
	d.Queue.Handle(jobKind, s.process)
	return s, nil
}

// ServeHTTP answers the API and, under /uploads/objects/, the presigned URLs. The latter speak S3
// and see the path as the client sent it, since the signature covers it.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/"+bucket+"/"+prefix) {
		s.presigned.ServeHTTP(w, r)
		return
	}
	s.router.ServeHTTP(w, r)
}

// Check asks the store and the database.
func (s *Service) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	var one int
	err := s.DB.Read.QueryRowContext(ctx, "SELECT 1 FROM uploads_files LIMIT 1").Scan(&one)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("reading the uploads: %w", err)
	}
	return s.Store.Check(ctx)
}

// Interface guards
var (
	_ service.Opener  = Config{}
	_ service.Service = (*Service)(nil)
)
