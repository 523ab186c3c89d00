package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"runtime/metrics"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// generatorFigures are what the load generator itself took.
type generatorFigures struct {
	CPU    float64 `json:"cpu_us_per_operation"`
	Allocs float64 `json:"allocations_per_operation"`
}

func (g generatorFigures) print(row func(name, format string, values ...any)) {
	row("generator", "%.0f µs CPU and %.0f allocations an operation", g.CPU, g.Allocs)
}

// spent is what this process had spent at some time.
type spent struct {
	cpu    time.Duration
	allocs uint64
}

func spending() spent { return spent{cpuTime(), allocated()} }

// since tells what was spent on each of so many operations.
func (s spent) since(operations int64) generatorFigures {
	if operations == 0 {
		return generatorFigures{}
	}
	n := float64(operations)
	return generatorFigures{
		CPU:    rounded(float64((cpuTime() - s.cpu).Microseconds()) / n),
		Allocs: rounded(float64(allocated()-s.allocs) / n),
	}
}

// allocated is how many objects this process has allocated.
func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:objects"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// serverFigures are what the server says of itself, from just before the load
// until its views had caught up. What it does not export is absent.
type serverFigures struct {
	CPU       float64             `json:"cpu_us_per_operation"`
	Allocs    float64             `json:"allocations_per_operation"`
	Bytes     float64             `json:"allocated_bytes_per_operation"`
	Resident  float64             `json:"resident_bytes"` // in the end
	Fsync     *fsyncFigures       `json:"fsync,omitempty"`
	Lanes     map[string]laneRate `json:"lanes,omitempty"`        // by category of stream
	RelayLag  *sampled            `json:"relay_lag_ms,omitempty"` // the age of the oldest event that waits for the bus
	Unread    *sampled            `json:"views_unread_events,omitempty"`
	DrainedS  float64             `json:"drained_s"` // from the last answer until all views had everything
	Undrained bool                `json:"undrained,omitempty"`
	Parts     map[string]float64  `json:"cpu_us_by_part,omitempty"` // where the parts are processes of their own
	Memory    *memoryFigures      `json:"memory,omitempty"`
	Disk      *diskFigures        `json:"disk,omitempty"`
}

// fsyncFigures are of the embedded log.
type fsyncFigures struct {
	Count  int64   `json:"count"`
	Writes float64 `json:"writes"` // that shared one
	Events float64 `json:"events"`
	Mean   float64 `json:"mean_ms"`
}

// A laneRate tells how many commands shared an append.
type laneRate struct {
	Appends  int64   `json:"appends"`
	Commands float64 `json:"commands"` // of each
}

// sampled are the values of a gauge that was looked at every so often.
type sampled struct {
	Samples int     `json:"samples"`
	Mean    float64 `json:"mean"`
	Max     float64 `json:"max"`
}

func (s *serverFigures) print(row func(name, format string, values ...any), leftOut string) {
	if s == nil {
		row("server", "nothing of its own figures: %s", leftOut)
		return
	}
	row("server", "%.0f µs CPU, %.0f allocations, %.0f bytes an operation; %.0f MB resident", s.CPU, s.Allocs, s.Bytes, s.Resident/(1<<20))
	s.Memory.print(row)
	s.Disk.print(row)
	if f := s.Fsync; f != nil {
		row("fsyncs", "%d of %.1f writes and %.1f events, %.2f ms each", f.Count, f.Writes, f.Events, f.Mean)
	}
	for _, category := range slices.Sorted(maps.Keys(s.Lanes)) {
		row("appends to "+category, "%d of %.2f commands", s.Lanes[category].Appends, s.Lanes[category].Commands)
	}
	for _, part := range slices.Sorted(maps.Keys(s.Parts)) {
		row("CPU of "+part, "%.0f µs an operation", s.Parts[part])
	}
	if l := s.RelayLag; l != nil {
		row("relay lag", "%.0f ms on average, %.0f at most", l.Mean, l.Max)
	}
	if l := s.Unread; l != nil {
		row("views behind", "%.0f events on average, %.0f at most", l.Mean, l.Max)
	}
	if s.Undrained {
		row("views", "had not caught up %.1f s after the last answer", s.DrainedS)
		return
	}
	row("views", "had caught up %.2f s after the last answer", s.DrainedS)
}

// A meter reads a server's own figures, or adds up those of several. One without
// an address says why it has none.
type meter struct {
	http *http.Client
	urls []string
	why  error

	folder string // of the server's data, if all of it is here
}

// meter finds where the server's figures are: where the command line says, or at
// the data folder's owner, if that is the server which is measured.
func (opt *benchOptions) meter() (*meter, error) {
	transport := &http.Transport{}
	m := &meter{http: &http.Client{Transport: transport, Timeout: 10 * time.Second}, urls: opt.metrics}
	for _, address := range m.urls {
		if u, err := url.Parse(address); err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
			return nil, fmt.Errorf("metrics %q is no address like http://127.0.0.1:9464/metrics", address)
		}
	}
	if len(m.urls) > 0 {
		return m, nil
	}
	if len(opt.targets) > 1 {
		m.why = errors.New("of several servers those are told whose --metrics are known")
		return m, nil
	}
	if opt.data == "" {
		m.why = errors.New("no data folder and no address of metrics is known")
		return m, nil
	}
	if listens, err := ownerSays(opt.data, "http"); err != nil {
		m.why = err
		return m, nil //nolint:nilerr // it is told with the result
	} else if listens != strings.TrimSuffix(opt.targets[0], "/") {
		m.why = fmt.Errorf("%s is the data of %s (--data or --metrics says where the figures are)", opt.data, listens)
		return m, nil
	}
	socket, err := ownerSocket(opt.data, "admin.sock")
	if err != nil {
		m.why = err
		return m, nil //nolint:nilerr // it is told with the result
	}
	transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	m.urls, m.folder = []string{"http://admin/metrics"}, opt.data
	return m, nil
}

func (m *meter) close() { m.http.CloseIdleConnections() }

// figures are values by name and labels, as Prometheus writes them.
type figures map[string]float64

// read asks for all figures, and for none that are kept from an earlier scrape.
func (m *meter) read(ctx context.Context) (figures, error) {
	if m.why != nil {
		return nil, m.why
	}
	if len(m.urls) == 1 {
		return m.readOne(ctx, m.urls[0])
	}
	sum := figures{}
	for _, address := range m.urls {
		one, err := m.readOne(ctx, address)
		if err != nil {
			return nil, err
		}
		for name, v := range one {
			sum[name] += v
		}
		if u, err := url.Parse(address); err == nil {
			sum[partCPU+`{part="`+u.Host+`"}`] = one["process_cpu_seconds_total"]
		}
	}
	return sum, nil
}

func (m *meter) readOne(ctx context.Context, address string) (figures, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Cache-Control", "no-cache")
	resp, err := m.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", address, resp.Status)
	}
	return readFigures(io.LimitReader(resp.Body, maxAnswer))
}

func readFigures(text io.Reader) (figures, error) {
	f := figures{}
	lines := bufio.NewScanner(text)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		at := strings.LastIndexByte(line, ' ')
		if at < 0 || line[0] == '#' {
			continue
		}
		v, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("these are no metrics: %q", line)
		}
		f[line[:at]] = v
	}
	return f, lines.Err()
}

// since is by how much something grew; not if it isn't there, or began anew.
func (f figures) since(before figures, name string) (float64, bool) {
	now, known := f[name]
	then, was := before[name]
	return now - then, known && (was || strings.Contains(name, "{")) && now >= then
}

// perEach divides the growth of one by that of another.
func (f figures) perEach(before figures, sum, count string) (each, n float64) {
	s, known := f.since(before, sum)
	n, counted := f.since(before, count)
	if !known || !counted || n == 0 {
		return 0, 0
	}
	return s / n, n
}

// An observation reads a server's figures before, while and after it has load.
type observation struct {
	*meter
	before figures
	err    error
	stop   context.CancelFunc
	done   sync.WaitGroup

	size int64 // of the data folder before

	relay, unread, resident, heap []float64 // written while it watches
}

// watchEvery is how often gauges are looked at.
const watchEvery = 500 * time.Millisecond

// observe begins an observation; end must be called.
func (m *meter) observe(ctx context.Context) *observation {
	w := &observation{meter: m}
	ctx, w.stop = context.WithCancel(ctx)
	if w.before, w.err = m.read(ctx); w.err != nil {
		return w
	}
	if w.folder != "" {
		w.size, _ = sizeOf(w.folder) // what is not known is not told
	}
	w.done.Go(func() {
		tick := time.NewTicker(watchEvery) // however long a look takes
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if now, err := m.read(ctx); err == nil { // the last one tells, if it stays so
				w.sample(now)
			}
		}
	})
	return w
}

func (w *observation) sample(now figures) {
	if age, known := now["cartwright_relay_oldest_waiting_age_seconds"]; known {
		w.relay = append(w.relay, 1000*age)
	}
	if unread, known := now["cartwright_views_unread_events"]; known {
		w.unread = append(w.unread, unread)
	}
	if bytes, known := now["process_resident_memory_bytes"]; known {
		w.resident = append(w.resident, bytes)
	}
	if bytes, known := now["go_memstats_heap_inuse_bytes"]; known {
		w.heap = append(w.heap, bytes)
	}
}

// end waits until the views have caught up, so that what they cost is with the
// figures, and tells these, or why there are none.
func (w *observation) end(ctx context.Context, operations int64) (*serverFigures, string) {
	last := time.Now()
	w.stop()
	w.done.Wait()
	if w.err != nil {
		return nil, w.err.Error()
	}
	after, drained, err := w.drain(ctx)
	if err != nil {
		return nil, err.Error()
	}
	took := time.Since(last)
	s := &serverFigures{
		Resident: after["process_resident_memory_bytes"], DrainedS: rounded(took.Seconds()), Undrained: !drained,
		RelayLag: sampledOf(w.relay), Unread: sampledOf(w.unread), Lanes: lanesOf(w.before, after), Fsync: fsyncsOf(w.before, after),
		Parts: partsOf(w.before, after, operations), Memory: memoryOf(w.resident, w.heap), Disk: w.disk(after, operations),
	}
	for of, name := range map[*float64]string{
		&s.CPU: "process_cpu_seconds_total", &s.Allocs: "go_memstats_mallocs_total", &s.Bytes: "go_memstats_alloc_bytes_total",
	} {
		if grown, known := after.since(w.before, name); known && operations > 0 {
			*of = grown / float64(operations)
		}
	}
	s.CPU, s.Allocs, s.Bytes = rounded(s.CPU*1e6), rounded(s.Allocs), rounded(s.Bytes)
	return s, ""
}

// viewsWithin is how long views may take to catch up before figures are told as
// they are.
const viewsWithin = time.Minute

// drain reads until relay and views are at the end of the log, as far as the
// server knows of them.
func (w *observation) drain(ctx context.Context) (now figures, drained bool, err error) {
	for until := time.Now().Add(viewsWithin); ; {
		if now, err = w.read(ctx); err != nil {
			return nil, false, err
		}
		if now.caughtUp() {
			return now, true, nil
		}
		if time.Now().After(until) {
			return now, false, nil
		}
		if !rest(ctx, 50*time.Millisecond) {
			return nil, false, ctx.Err()
		}
	}
}

// caughtUp says that nothing waits for the bus, or on it.
func (f figures) caughtUp() bool {
	return f["cartwright_relay_oldest_waiting_age_seconds"] == 0 && f["cartwright_views_unread_events"] == 0
}

func fsyncsOf(before, after figures) *fsyncFigures {
	const node = "cartwright_node_commit_"
	writes, n := after.perEach(before, node+"writes_sum", node+"writes_count")
	if n == 0 {
		return nil
	}
	events, _ := after.perEach(before, node+"events_sum", node+"events_count")
	seconds, _ := after.perEach(before, node+"seconds_sum", node+"seconds_count")
	return &fsyncFigures{Count: int64(n), Writes: rounded(writes), Events: rounded(events), Mean: rounded(1000 * seconds)}
}

func lanesOf(before, after figures) map[string]laneRate {
	const count, sum = `cartwright_lane_commands_count{category="`, `cartwright_lane_commands_sum{category="`
	lanes := map[string]laneRate{}
	for name := range after {
		if category, found := strings.CutPrefix(name, count); found {
			if each, n := after.perEach(before, sum+category, name); n > 0 {
				lanes[strings.TrimSuffix(category, `"}`)] = laneRate{Appends: int64(n), Commands: rounded(each)}
			}
		}
	}
	return lanes
}

func sampledOf(values []float64) *sampled {
	if len(values) == 0 {
		return nil
	}
	s := &sampled{Samples: len(values), Max: rounded(slices.Max(values))}
	for _, v := range values {
		s.Mean += v / float64(len(values))
	}
	s.Mean = rounded(s.Mean)
	return s
}
