package sandboxpay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// A ServerConfig says what kind of channel the sandbox is.
type ServerConfig struct {
	Merchant  string
	Secret    string // verifies requests, and signs callbacks
	OldSecret string // verifies requests too, while secrets change; none if empty

	NotifyURL string          // where callbacks go; nobody is called if empty
	Retry     []time.Duration // waits between tries of a callback, the last one again and again; DefaultRetry if empty
	Workers   int             // callbacks under way at once; 16 if 0
	CallWait  time.Duration   // how long an answer to a callback may take; 5 s if 0
	HTTP      *http.Client    // makes the callbacks; one of its own if nil

	AutoPay         time.Duration // payments are paid by themselves after so long; not if 0
	FailShare       float64       // the share of these that fail instead
	RefundAfter     time.Duration // how long refunds are pending; not if 0
	RefundFailShare float64       // the share of refunds that fail
	Faults          Faults
	Seed            uint64

	Dir         string // where the journal is; nothing outlives the process if empty
	MaxPayments int    // at most, all days together; 200,000 if 0
	Log         *slog.Logger
	Now         func() time.Time
}

// Faults are what befalls callbacks. The shares are of all callbacks, and no
// more than one of the three befalls each.
type Faults struct {
	Drop        float64       // never made at all
	Repeat      float64       // made once more though it was acknowledged, half of them at the same time
	Late        float64       // made LateBy later
	LateBy      time.Duration // also how much later half of the repeated ones come again
	Reorder     int           // so many are gathered and shuffled before they are made; none if 0 or 1
	Gather      time.Duration // how long is waited for so many; 1 s if 0
	ExpireAfter time.Duration // payments can be paid no longer than so, whatever they ask for; as they ask if 0
}

// DefaultRetry is when callbacks that are not answered by SUCCESS come again.
func DefaultRetry() []time.Duration {
	return []time.Duration{
		time.Second, 2 * time.Second, 5 * time.Second, 15 * time.Second, 30 * time.Second,
		time.Minute, 2 * time.Minute, 5 * time.Minute, 15 * time.Minute,
	}
}

// Status is what the sandbox did. What is of payments and refunds is of all
// that it remembers, the rest of this process.
type Status struct {
	Merchant string `json:"merchant"`

	Created       int `json:"created"` // payments asked for
	Paid          int `json:"paid"`
	Failed        int `json:"failed"` // of themselves, by the buyer's wish, or expired
	Closed        int `json:"closed"` // by the shop
	Refunded      int `json:"refunded"`
	RefundsFailed int `json:"refunds_failed"`

	CalledBack int `json:"called_back"` // callbacks that were answered by SUCCESS
	Dropped    int `json:"dropped"`     // callbacks that are never made
	Repeated   int `json:"repeated"`    // made once more, for nothing
	Late       int `json:"late"`        // callbacks that are made late
	Refused    int `json:"refused"`     // tries that were not answered by SUCCESS
	Waiting    int `json:"waiting"`     // callbacks, and repeats, that are still to be made

	BadRequests int `json:"bad_requests"` // requests that were refused
}

// A Server is the channel. It may be used concurrently. Callbacks are made, and
// time passes for payments, while Run runs.
type Server struct {
	cfg     ServerConfig
	log     *slog.Logger
	mux     *http.ServeMux
	journal *journal
	calls   http.Client
	slots   chan struct{} // of requests under way

	running   atomic.Bool
	wakeDiary chan struct{}
	wakeCalls chan struct{}

	mu       sync.Mutex // guards what follows
	book     *book
	diary    agenda[task]
	outbox   agenda[*delivery]
	gathered []*delivery
	windows  int // of gathered ones that were sent off
	underway int // deliveries
	counts   Status
}

const maxRequests = 1024 // under way at once

// NewServer makes a channel, and reads its journal if it has one. Close lets go of it.
func NewServer(cfg ServerConfig) (*Server, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	cfg.setDefaults()
	s := &Server{
		cfg: cfg, log: cfg.Log, book: newBook(cfg.Merchant), slots: make(chan struct{}, maxRequests),
		wakeDiary: make(chan struct{}, 1), wakeCalls: make(chan struct{}, 1),
	}
	s.mux = s.routes()
	s.calls = http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: cfg.Workers, IdleConnTimeout: time.Minute}}
	if cfg.HTTP != nil {
		s.calls = *cfg.HTTP
	}
	s.calls.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	if cfg.Dir != "" {
		var err error
		s.journal, err = openJournal(cfg.Dir, cfg.Merchant, func(r record) error {
			_, wrong := s.book.apply(r)
			return wrong
		})
		if err != nil {
			return nil, fmt.Errorf("journal of the sandbox: %w", err)
		}
	}
	if err := s.resume(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Check says what makes no sense. NewServer asks it too.
func (cfg *ServerConfig) Check() error {
	if err := lacking("the sandbox", given{"Merchant", cfg.Merchant}, given{"Secret", cfg.Secret}); err != nil {
		return err
	}
	if !goodMerchant(cfg.Merchant) {
		return fmt.Errorf("the sandbox's merchant %q is not made of letters, digits, dashes, dots and underlines, 64 at most", cfg.Merchant)
	}
	if cfg.NotifyURL != "" {
		if _, err := httpAddress(cfg.NotifyURL); err != nil {
			return fmt.Errorf("where the sandbox calls back: %w", err)
		}
	}
	f := cfg.Faults
	for _, share := range []float64{f.Drop, f.Repeat, f.Late, cfg.FailShare, cfg.RefundFailShare} {
		if !(share >= 0 && share <= 1) { // not a number is neither
			return fmt.Errorf("a share is 0 to 1, not %v", share)
		}
	}
	durations := append([]time.Duration{cfg.CallWait, cfg.AutoPay, cfg.RefundAfter, f.LateBy, f.Gather, f.ExpireAfter}, cfg.Retry...)
	switch {
	case f.Drop+f.Repeat+f.Late > 1.000001: // shares like 0.7, 0.2 and 0.1 come to a little more than 1
		return errors.New("a callback is dropped, repeated or late, so these shares are 1 together at most")
	case slices.Min(durations) < 0:
		return errors.New("the sandbox's durations are not negative")
	case len(cfg.Retry) > 0 && cfg.Retry[len(cfg.Retry)-1] == 0:
		return errors.New("the last wait between tries of a callback comes again and again, so it is not 0")
	case f.Late > 0 && f.LateBy == 0:
		return errors.New("how late are late callbacks? LateBy says it")
	case f.Reorder < 0 || f.Reorder > 10_000 || cfg.Workers < 0 || cfg.Workers > 1024:
		return errors.New("up to 10,000 callbacks can be shuffled, and up to 1024 be under way")
	case cfg.MaxPayments < 0:
		return errors.New("the sandbox takes one payment at least")
	}
	return nil
}

func (cfg *ServerConfig) setDefaults() {
	if len(cfg.Retry) == 0 {
		cfg.Retry = DefaultRetry()
	}
	if cfg.Workers == 0 {
		cfg.Workers = 16
	}
	if cfg.CallWait == 0 {
		cfg.CallWait = 5 * time.Second
	}
	if cfg.Faults.Gather == 0 {
		cfg.Faults.Gather = time.Second
	}
	if cfg.MaxPayments == 0 {
		cfg.MaxPayments = 200_000
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
}

// resume takes up what an earlier process has left: payments that will be paid
// or expire, refunds on their way, callbacks that nobody has acknowledged.
func (s *Server) resume() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.book.payments {
		s.expect(p)
		for _, r := range p.refunds {
			s.expectRefund(p, r)
		}
	}
	var open []*call
	for _, c := range s.book.calls {
		open = append(open, c)
	}
	slices.SortFunc(open, func(a, b *call) int { return int(a.number - b.number) })
	for _, c := range open {
		if err := s.schedule(c); err != nil {
			return err
		}
	}
	return nil
}

// Close writes down what is not yet on disk, and lets go of the journal. Run has
// ended before.
func (s *Server) Close() error { return s.journal.close() }

// Status gives the counters.
func (s *Server) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st, b := s.counts, s.book.counts
	st.Merchant = s.cfg.Merchant
	st.Created, st.Paid, st.Failed, st.Closed, st.Refunded, st.RefundsFailed = b.Created, b.Paid, b.Failed, b.Closed, b.Refunded, b.RefundsFailed
	st.Waiting = s.outbox.len() + len(s.gathered) + s.underway
	return st
}

// now is the time as it is written down: to the millisecond.
func (s *Server) now() time.Time { return s.cfg.Now().UTC().Truncate(time.Millisecond) }

// commit notes what happened, and has it called back. It is on disk when the
// journal is synced.
func (s *Server) commit(r record) error {
	c, err := s.book.apply(r)
	if err != nil {
		return err
	}
	seq, err := s.journal.append(r)
	if err != nil || c == nil {
		return err
	}
	c.seq = seq
	return s.schedule(c)
}

// Run makes callbacks, and pays, expires and settles when it is time, until ctx
// ends. It fails if the journal can't be written. It may run again, but not twice
// at once.
func (s *Server) Run(ctx context.Context) error {
	if !s.running.CompareAndSwap(false, true) {
		return errors.New("the sandbox runs already")
	}
	defer s.running.Store(false)
	defer s.calls.CloseIdleConnections()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.keepDiary(ctx) })
	g.Go(func() error { return s.callBack(ctx) })
	return g.Wait()
}

// sleep waits until something is woken, so much time has passed (for ever, if
// it is negative), or ctx ends, which it says.
func sleep(ctx context.Context, wake <-chan struct{}, wait time.Duration) (ended bool) {
	var passed <-chan time.Time
	if wait >= 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		passed = timer.C
	}
	select {
	case <-ctx.Done():
		return true
	case <-wake:
	case <-passed:
	}
	return false
}

func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default: // it is awake already
	}
}
