package sandboxpay

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// A delivery is a callback on its way.
type delivery struct {
	call *call
	try  int  // made before
	echo bool // for nothing: it is not tried again
}

// draw gives a number from 0 up to 1 that hangs on the seed and on what it is
// drawn for, and on nothing else.
func (s *Server) draw(what, name string) float64 {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d\n%s\n%s", s.cfg.Seed, what, name))
	return float64(binary.BigEndian.Uint64(sum[:])>>11) / (1 << 53)
}

// schedule has a callback made, or whatever befalls it.
func (s *Server) schedule(c *call) error {
	if s.cfg.NotifyURL == "" {
		return nil
	}
	f := s.cfg.Faults
	fate := s.draw("fate", c.name())
	switch {
	case fate < f.Drop:
		s.counts.Dropped++
		return s.commit(record{Do: didAcknowledge, Call: c.number, Note: "dropped"})
	case fate < f.Drop+f.Repeat:
		s.place(&delivery{call: c}, 0)
		again := time.Duration(0)
		if s.draw("echo", c.name()) < 0.5 {
			again = f.LateBy
		}
		s.place(&delivery{call: c, echo: true}, again)
	case fate < f.Drop+f.Repeat+f.Late:
		s.counts.Late++
		s.place(&delivery{call: c}, f.LateBy)
	default:
		s.place(&delivery{call: c}, 0)
	}
	return nil
}

// place puts a delivery among those to be made after a while, or among those
// that are gathered to be shuffled.
func (s *Server) place(d *delivery, after time.Duration) {
	if s.cfg.Faults.Reorder < 2 || after > 0 {
		s.outbox.add(s.cfg.Now().Add(after), d)
		wake(s.wakeCalls)
		return
	}
	s.gathered = append(s.gathered, d)
	switch len(s.gathered) {
	case 1:
		s.plan(s.cfg.Now().Add(s.cfg.Faults.Gather), task{do: (*Server).taskShuffle, window: s.windows})
	case s.cfg.Faults.Reorder:
		s.shuffle()
	}
}

// taskShuffle sends off those that waited for company long enough.
func (s *Server) taskShuffle(t task, _ time.Time) error {
	if t.window == s.windows {
		s.shuffle()
	}
	return nil
}

func (s *Server) shuffle() {
	rnd := rand.New(rand.NewPCG(s.cfg.Seed, uint64(s.windows))) //nolint:gosec // chance that can be had again is what is wanted; windows are counted up
	rnd.Shuffle(len(s.gathered), func(i, j int) { s.gathered[i], s.gathered[j] = s.gathered[j], s.gathered[i] })
	now := s.cfg.Now()
	for _, d := range s.gathered {
		s.outbox.add(now, d)
	}
	s.gathered = nil
	s.windows++
	wake(s.wakeCalls)
}

// callBack makes callbacks until ctx ends, and waits for those under way.
func (s *Server) callBack(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(s.cfg.Workers)
	for {
		d, ended := s.nextDelivery(ctx)
		if ended {
			return g.Wait()
		}
		g.Go(func() error { return s.deliver(ctx, d) })
	}
}

// nextDelivery waits for one that is due.
func (s *Server) nextDelivery(ctx context.Context) (d *delivery, ended bool) {
	for {
		s.mu.Lock()
		d, wait, ok := s.outbox.next(s.cfg.Now())
		if ok {
			s.underway++
		}
		s.mu.Unlock()
		if ok {
			return d, false
		}
		if sleep(ctx, s.wakeCalls, wait) {
			return nil, true
		}
	}
}

// deliver makes a callback, when what it tells is on disk.
func (s *Server) deliver(ctx context.Context, d *delivery) error {
	if err := s.journal.sync(d.call.seq); err != nil {
		return errors.Join(err, s.delivered(d, err, true))
	}
	failure := s.post(ctx, d.call.says)
	if failure != nil && ctx.Err() == nil {
		level := slog.LevelDebug
		if d.try == 0 {
			level = slog.LevelWarn
		}
		s.log.Log(ctx, level, "callback refused", "payment", d.call.says.Payment, "kind", d.call.says.Kind, "try", d.try+1, "error", failure)
	}
	return s.delivered(d, failure, ctx.Err() != nil)
}

// delivered notes how it went. One that was cut off by the end of all has not
// been tried.
func (s *Server) delivered(d *delivery, failure error, cutOff bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.underway--
	switch {
	case failure != nil && cutOff:
		s.outbox.add(s.cfg.Now(), d)
		return nil
	case d.echo:
		s.counts.Repeated++
		return nil
	case failure == nil:
		s.counts.CalledBack++
		return s.commit(record{Do: didAcknowledge, Call: d.call.number})
	}
	s.counts.Refused++
	s.outbox.add(s.cfg.Now().Add(s.cfg.Retry[min(d.try, len(s.cfg.Retry)-1)]), d)
	d.try++
	wake(s.wakeCalls)
	return nil
}

// post tells the shop, and says what is wrong with its answer.
func (s *Server) post(ctx context.Context, says callback) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.CallWait)
	defer cancel()
	body, err := json.Marshal(says)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.cfg.NotifyURL, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set(SignatureHeader, SignCallback(s.cfg.Secret, s.cfg.Now(), body))
	resp, err := s.calls.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	said, err := io.ReadAll(io.LimitReader(resp.Body, 1024))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK || strings.TrimSpace(string(said)) != saidSuccess {
		return fmt.Errorf("it was answered %d %s", resp.StatusCode, quoted(string(said)))
	}
	return nil
}
