package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// linesEvery is how often progress is told to a pipe.
const linesEvery = 3 * time.Second

// progress tells how far long work is: a bar on a terminal, a line every few
// seconds elsewhere. It may be used concurrently.
type progress struct {
	out   io.Writer
	what  string
	total int
	bar   *progressbar.ProgressBar // nil where there is no terminal

	mu    sync.Mutex
	done  int
	start time.Time
	told  time.Time
}

func newProgress(out io.Writer, what string, total int) *progress {
	now := time.Now()
	p := &progress{out: out, what: what, total: total, start: now, told: now}
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		p.bar = progressbar.NewOptions(total, progressbar.OptionSetWriter(out), progressbar.OptionSetDescription(what),
			progressbar.OptionShowCount(), progressbar.OptionShowIts(), progressbar.OptionSetPredictTime(true),
			progressbar.OptionFullWidth(), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())
	}
	return p
}

// step says that one more is done.
func (p *progress) step() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done++
	if p.bar != nil {
		_ = p.bar.Add(1) // a terminal that takes no more is no reason to stop
		return
	}
	if now := time.Now(); now.Sub(p.told) >= linesEvery {
		p.told = now
		p.tell(now)
	}
}

// end says how far it came, if it came anywhere.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done == 0 {
		return
	}
	if p.bar != nil {
		_ = p.bar.Exit()
	}
	p.tell(time.Now())
}

func (p *progress) tell(now time.Time) {
	took := now.Sub(p.start)
	rate := float64(p.done) / max(took.Seconds(), 0.001)
	line := fmt.Sprintf("%s: %d of %d, %.0f/s", p.what, p.done, p.total, rate)
	if left := p.total - p.done; left > 0 && p.done > 0 {
		line += fmt.Sprintf(", %s left", time.Duration(float64(left)/rate*float64(time.Second)).Round(time.Second))
	}
	_, _ = fmt.Fprintln(p.out, line) // as above
}
