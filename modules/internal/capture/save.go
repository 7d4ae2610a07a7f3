package capture

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/volume"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/traffic"
)

const (
	// suffix ends the name of a capture; what does not have it in the directory is not ours to remove.
	suffix = "-cpu"
	// unfinished begins the name of a capture that is being written.
	unfinished = ".new-"
	// stamp is sortable and has no colon, which some file systems refuse.
	stamp = "20060102T150405.000Z"
	rows  = 30
	// floor is the free space that captures leave on the disk, where the database and the uploads are.
	floor = 64 << 20
)

// render makes the files of a capture, and names the function at the top.
func render(c Captured, began time.Time, cpu []byte, routes []traffic.Route) (files map[string][]byte, top string) {
	files = map[string][]byte{"cpu.pprof": cpu, "routes.txt": routesText(routes)}
	var b bytes.Buffer
	_, _ = fmt.Fprintf(&b, "%s\ncause: %s\ncpu: %.0f%% of what the process may use, scheduling p99: %s, when it began\n\n",
		began.UTC().Format(time.RFC3339), c.Cause, 100*c.CPU, c.Scheduling)
	t, err := ParseTop(bytes.NewReader(cpu))
	if err != nil {
		_, _ = fmt.Fprintln(&b, err)
	} else {
		if len(t.Functions) > 0 {
			top = t.Functions[0].Name
		}
		_, _ = b.WriteString("By the time of the function itself:\n\n")
		_ = t.Write(&b, rows)
		_, _ = b.WriteString("\nBy the time with all that it called:\n\n")
		_ = t.ByCumulative().Write(&b, rows)
	}
	files["top.txt"] = b.Bytes()
	return files, top
}

func routesText(routes []traffic.Route) []byte {
	var b bytes.Buffer
	_, _ = b.WriteString("Requests that began during the profile, as limit and admission saw them. The time is that of the whole request, waiting included.\n\n")
	if len(routes) == 0 {
		_, _ = b.WriteString("none\n")
		return b.Bytes()
	}
	table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(table, "total\trequests\tunfinished\tmean\t  route")
	for _, r := range routes {
		_, _ = fmt.Fprintf(table, "%s\t%d\t%d\t%s\t  %s\n", r.Total.Round(time.Millisecond), r.Requests, r.Unfinished,
			(r.Total / time.Duration(max(1, r.Requests))).Round(time.Microsecond), r.Name)
	}
	_ = table.Flush()
	return b.Bytes()
}

// save writes a capture, all of it or nothing, and removes the oldest beyond keep. An error with a
// path says that the capture is there and that an old one could not be removed.
func save(dir string, keep int, began time.Time, files map[string][]byte) (path string, err error) {
	if err = os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	room, err := reserve(dir, files)
	if err != nil {
		return "", err
	}
	defer room.Release()
	left, err := filepath.Glob(filepath.Join(dir, unfinished+"*")) // by a process that ended meanwhile: one writes at a time
	if err != nil {
		return "", err
	}
	for _, name := range left {
		_ = os.RemoveAll(name)
	}
	tmp, err := os.MkdirTemp(dir, unfinished) // mode 0700
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(tmp) }() // gone where it was renamed
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err = os.WriteFile(filepath.Join(tmp, name), files[name], 0o600); err != nil {
			return "", err
		}
	}
	target := filepath.Join(dir, began.UTC().Format(stamp)+suffix)
	if err = os.Rename(tmp, target); err != nil {
		return "", err
	}
	return target, prune(dir, keep)
}

// reserve takes room for the files.
func reserve(dir string, files map[string][]byte) (*volume.Reservation, error) {
	disk, err := volume.Of(dir)
	if err != nil {
		return nil, err
	}
	size := int64(0)
	for _, b := range files {
		size += int64(len(b))
	}
	return disk.Reserve(size, floor)
}

// prune removes the oldest captures beyond keep.
func prune(dir string, keep int) error {
	entries, err := os.ReadDir(dir) // sorted by name, which is by time
	if err != nil {
		return err
	}
	entries = slices.DeleteFunc(entries, func(e os.DirEntry) bool { return !e.IsDir() || !isCapture(e.Name()) })
	for _, e := range entries[:max(0, len(entries)-keep)] {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}

func isCapture(name string) bool {
	began, ok := strings.CutSuffix(name, suffix)
	_, err := time.Parse(stamp, began)
	return ok && err == nil
}
