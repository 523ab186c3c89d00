package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// A fleet is a shop whose every part is a process of its own, as on many machines,
// so that what each spends is known. Before them stands a proxy, which takes
// queries to one and commands to the other, and shows what all of them say of
// themselves as if they were one server.
type fleet struct {
	parts []*startedServer
	front *http.Server
	done  errgroup.Group
	gauge fleetGauge
}

// fleetParts are the parts in the order in which they start.
func fleetParts() []string { return []string{"node", "relay", "project", "process", "write", "read"} }

// partCPU is the name of what the proxy says of each process.
const partCPU = "cartwright_bench_part_cpu_seconds_total"

// startApart starts a fleet. It tells where it listens and where its figures are.
func (s *standardSet) startApart(ctx context.Context, namespace string) (_ *fleet, err error) {
	f := &fleet{gauge: fleetGauge{metrics: map[string]string{}, pids: map[string]int{}}}
	maps.Copy(f.gauge.pids, s.pids)
	defer func() {
		if err != nil {
			err = errors.Join(err, f.stop())
		}
	}()
	if err = s.shareKey(); err != nil {
		return nil, err
	}
	urls := map[string]*url.URL{}
	for _, name := range fleetParts() {
		if name == "node" && os.Getenv("CARTWRIGHT_EVENTSTORE") != "" {
			continue
		}
		if urls[name], err = s.startPart(ctx, f, name, namespace); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	if s.url, err = f.listen(ctx, toParts(urls["write"], urls["read"])); err != nil {
		return nil, err
	}
	s.metrics = s.url + "/metrics"
	return f, nil
}

// shareKey makes the master key that all parts have.
func (s *standardSet) shareKey() error {
	path := filepath.Join(s.folder, "master.key")
	key := make([]byte, 32)
	_, _ = rand.Read(key) // it never fails
	s.env = append(s.env, "CARTWRIGHT_MASTER_KEY_FILE="+path)
	return os.WriteFile(path, key, 0o600)
}

// startPart starts one process and waits until it is ready.
func (s *standardSet) startPart(ctx context.Context, f *fleet, name, namespace string) (*url.URL, error) {
	metrics, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	part, _, _ := strings.Cut(name, "-") // of which there may be several
	data := filepath.Join(s.data(), name)
	if !s.apart { // it works through the doors of the process that has the folder
		data = s.data()
	}
	args := []string{part, "--data", data, "--metrics", metrics}
	switch part {
	case "node":
		args = append(args, "--listen", "127.0.0.1:0", "--insecure")
	case "write":
		args = append(args, "--namespace", namespace, "--listen", "127.0.0.1:0", "--rate-limit", "0", "--pay-within", "24h")
	case "read":
		args = append(args, "--namespace", namespace, "--listen", "127.0.0.1:0", "--rate-limit", "0")
	default:
		args = append(args, "--namespace", namespace)
	}
	server, ready, err := s.begin(ctx, args...)
	if err != nil {
		return nil, err
	}
	f.parts = append(f.parts, server)
	f.gauge.metrics[name] = "http://" + metrics + "/metrics"
	f.gauge.pids[name] = server.cmd.Process.Pid
	where := firstURL(ready)
	if part == "node" {
		s.env = append(s.env, "CARTWRIGHT_EVENTSTORE="+where)
		return nil, nil //nolint:nilnil // it has no API
	}
	return url.Parse(where)
}

// firstURL finds where a process says that it is reached.
func firstURL(ready string) string {
	for word := range strings.FieldsSeq(ready) {
		if strings.HasPrefix(word, "http://") || strings.HasPrefix(word, "esdb://") {
			return word
		}
	}
	return ""
}

// listen starts the proxy before an API, and says where it is.
func (f *fleet) listen(ctx context.Context, api http.Handler) (where string, err error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	mux := http.NewServeMux()
	mux.Handle("/metrics", &f.gauge)
	mux.Handle("/", api)
	f.front = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	f.done.Go(func() error {
		if err := f.front.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	return "http://" + l.Addr().String(), nil
}

// toParts takes queries to one part and commands to another.
func toParts(write, read *url.URL) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			if r.In.Method == http.MethodGet || r.In.Method == http.MethodHead {
				r.SetURL(read)
			} else {
				r.SetURL(write)
			}
		},
		Transport: &http.Transport{MaxIdleConnsPerHost: 1024},
	}
}

func (f *fleet) stop() error {
	var errs []error
	if f.front != nil {
		errs = append(errs, f.front.Close(), f.done.Wait())
	}
	for _, part := range slices.Backward(f.parts) {
		errs = append(errs, part.stop())
	}
	return errors.Join(errs...)
}

// A fleetGauge answers with the figures of several processes as one.
type fleetGauge struct {
	metrics map[string]string // the addresses by part
	pids    map[string]int
}

func (g *fleetGauge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	sum, err := g.sum(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	for _, name := range slices.Sorted(maps.Keys(sum)) {
		_, _ = fmt.Fprintf(w, "%s %s\n", name, strconv.FormatFloat(sum[name], 'g', -1, 64)) // who asked may have gone
	}
}

// sum adds up what all processes say, and says of each how long it has run.
func (g *fleetGauge) sum(ctx context.Context) (figures, error) {
	all := figures{}
	var adding sync.Mutex
	asked, ctx := errgroup.WithContext(ctx)
	for _, address := range g.metrics {
		asked.Go(func() error {
			one, err := (&meter{http: http.DefaultClient}).readOne(ctx, address)
			adding.Lock()
			defer adding.Unlock()
			for name, v := range one {
				all[name] += v
			}
			return err
		})
	}
	if err := asked.Wait(); err != nil {
		return nil, err
	}
	for part, pid := range g.pids {
		seconds, err := cpuOf(pid)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", part, err)
		}
		all[partCPU+`{part="`+part+`"}`] = seconds
	}
	return all, nil
}

// ticks is how many of them Linux counts a second, on every machine there is.
const ticks = 100

// cpuOf is how long a process of this machine has been on a CPU, as the kernel of
// Linux counts it.
func cpuOf(pid int) (seconds float64, err error) {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, err
	}
	// The program's name is in parentheses and may contain anything.
	_, rest, _ := strings.Cut(string(stat[max(0, strings.LastIndexByte(string(stat), ')')):]), " ")
	fields := strings.Fields(rest)
	const user, system = 11, 12
	if len(fields) <= system {
		return 0, fmt.Errorf("process %d: %q tells no times", pid, stat)
	}
	for _, at := range []int{user, system} {
		n, err := strconv.ParseFloat(fields[at], 64)
		if err != nil {
			return 0, fmt.Errorf("process %d: %w", pid, err)
		}
		seconds += n / ticks
	}
	return seconds, nil
}

// partsOf tells what each process spent on an operation, in µs.
func partsOf(before, after figures, operations int64) map[string]float64 {
	parts := map[string]float64{}
	for name := range after {
		part, found := strings.CutPrefix(name, partCPU+`{part="`)
		grown, known := after.since(before, name)
		if found && known && operations > 0 {
			parts[strings.TrimSuffix(part, `"}`)] = rounded(grown * 1e6 / float64(operations))
		}
	}
	return parts
}

// begin starts this program and waits for the line that says that it is ready.
func (s *standardSet) begin(ctx context.Context, args ...string) (*startedServer, string, error) {
	_, _ = fmt.Fprintln(s.errs, "cartwright", strings.Join(args, " ")) // nobody may listen
	cmd := s.command(ctx, args...)
	cmd.Env = append(cmd.Env, "CARTWRIGHT_SANDBOX_URL=http://"+s.sandbox, "CARTWRIGHT_SANDBOX_SECRET_FILE="+s.secretFile())
	cmd.Stderr = s.errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, "", err
	}
	if err = cmd.Start(); err != nil {
		return nil, "", fmt.Errorf("start a server: %w", err)
	}
	server := &startedServer{cmd: cmd, rest: make(chan error, 1)}
	lines := bufio.NewReader(out)
	ready, err := lines.ReadString('\n')
	if err != nil {
		return nil, "", errors.Join(fmt.Errorf("the server is not ready: %w", err), cmd.Wait())
	}
	go func() {
		_, err := io.Copy(io.Discard, lines)
		server.rest <- err
	}()
	return server, ready, nil
}

// A startedServer is one that was started here.
type startedServer struct {
	cmd  *exec.Cmd
	rest chan error // closes when its output has ended
}
