package commands_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cartwright/commands"
	"cartwright/domain/event"
	"cartwright/domain/inventory"
	"cartwright/infra/esdbnode"
	"cartwright/infra/esdbstore"
	"cartwright/infra/memstore"
)

// tally counts what becomes of appends to the hot stream.
type tally struct {
	commands.Store
	stored, lost atomic.Int64
}

func (c *tally) Append(ctx context.Context, stream string, after event.Revision, es []event.Recorded) error {
	err := c.Store.Append(ctx, stream, after, es)
	switch {
	case stream != "inventory-a" && !strings.HasPrefix(stream, "inventory-a~"):
	case err == nil:
		c.stored.Add(1)
	case errors.Is(err, event.ErrConflict):
		c.lost.Add(1)
	}
	return err
}

// nodeOn serves a log of its own, and gives its address.
func nodeOn(tb testing.TB) string {
	tb.Helper()
	node, err := esdbnode.Open(esdbnode.Options{Dir: tb.TempDir()})
	if err != nil {
		tb.Fatal(err)
	}
	socket := filepath.Join(tb.TempDir(), "n.sock")
	listener, err := new(net.ListenConfig).Listen(tb.Context(), "unix", socket)
	if err != nil {
		tb.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- node.Serve(listener) }()
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if stopped := errors.Join(node.Close(ctx), <-served); stopped != nil {
			tb.Errorf("stop: %v", stopped)
		}
	})
	return "unix://" + socket
}

// onDisk is a log whose appends and reads take as long as on a disk.
type onDisk struct {
	commands.Store
	reads, appends atomic.Int64
}

const (
	appendTakes = 2 * time.Millisecond
	readTakes   = 300 * time.Microsecond
)

func (s *onDisk) Append(ctx context.Context, stream string, after event.Revision, es []event.Recorded) error {
	s.appends.Add(1)
	time.Sleep(appendTakes)
	return s.Store.Append(ctx, stream, after, es)
}

func (s *onDisk) Load(ctx context.Context, stream string, after event.Revision) iter.Seq2[event.Recorded, error] {
	s.reads.Add(1)
	time.Sleep(readTakes)
	return s.Store.Load(ctx, stream, after)
}

// besiege lets buyers come to every process for a second, and says how many
// each has served, and how long any buyer waited at most.
func besiege(t *testing.T, processes []*stockLanes, buyers int) (served []int, longest time.Duration) {
	t.Helper()
	served = make([]int, len(processes))
	waits := make([]time.Duration, len(processes))
	var mu sync.Mutex
	var wg sync.WaitGroup
	end := time.Now().Add(time.Second)
	for p, h := range processes {
		for b := range buyers {
			wg.Go(func() {
				for i := 0; time.Now().Before(end); i++ {
					began := time.Now()
					if _, err := h.Handle(t.Context(), "a", named(fmt.Sprintf("%d/%d/%d/%d", p, b, i, end.UnixNano())), receive(1)); err != nil {
						t.Errorf("process %d: %v", p, err)
						return
					}
					mu.Lock()
					served[p]++
					waits[p] = max(waits[p], time.Since(began))
					mu.Unlock()
				}
			})
		}
	}
	wg.Wait()
	return served, slices.Max(waits)
}

func TestProcessesTakeTurnsAtOneStream(t *testing.T) {
	const buyers = 64
	alone := 0
	// In turns one append waits for the other, so four processes that share so
	// few buyers have small turns.
	for n, percent := range []int{1: 100, 2: 70, 4: 30} {
		if percent == 0 {
			continue
		}
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := &onDisk{Store: new(memstore.Store)}
				var processes []*stockLanes
				for range n {
					processes = append(processes, lanes(t, log))
				}
				// In the first second they meet.
				_, longest := besiege(t, processes, buyers/n)
				before, _, err := processes[0].State(t.Context(), "a")
				if err != nil {
					t.Fatal(err)
				}
				served, later := besiege(t, processes, buyers/n)
				longest = max(longest, later)
				total := 0
				for _, s := range served {
					total += s
				}
				if n == 1 {
					alone = total
				}
				t.Logf("served %v, %d appends, %d reads, the longest wait %v", served, log.appends.Load(), log.reads.Load(), longest)
				if total*100 < alone*percent {
					t.Errorf("%d processes serve %d in a second, one serves %d", n, total, alone)
				}
				if least := slices.Min(served); least*n < slices.Max(served) {
					t.Errorf("the processes serve %v", served)
				}
				if longest > 2*listens {
					t.Errorf("somebody waited %v", longest)
				}
				if st, _, err := processes[0].State(t.Context(), "a"); err != nil || st.OnHand-before.OnHand != int64(total) {
					t.Errorf("%d came to be on hand, not %d, %v", st.OnHand-before.OnHand, total, err)
				}
			})
		})
	}
}

const listens = 200 * time.Millisecond // how often a busy lane lets strangers in

// A process that decides and appends in no time leaves no gap by itself.
func TestWhoAlwaysWinsListensNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &onDisk{Store: new(memstore.Store)}
		h := lanes(t, log)
		served, _ := besiege(t, []*stockLanes{h}, 1)
		if most := int(time.Second / appendTakes); served[0] < most*95/100 {
			t.Errorf("%d of %d appends were made: listening takes too long", served[0], most)
		}
		if reads := log.reads.Load(); reads < 4 || reads > 6 {
			t.Errorf("listened %d times in a second", reads)
		}
	})
}

func TestARivalThatFallsSilentIsNotWaitedForAnyLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &onDisk{Store: new(memstore.Store)}
		processes := []*stockLanes{lanes(t, log), lanes(t, log)}
		besiege(t, processes, 8)
		log.reads.Store(0)
		began := time.Now()
		for i := range 50 {
			if _, err := processes[0].Handle(t.Context(), "a", named(fmt.Sprint("after", i)), receive(1)); err != nil {
				t.Fatal(err)
			}
		}
		const mostWaits = 3 * 14 // looks
		if took, alone := time.Since(began), 50*appendTakes; took > alone*3/2 {
			t.Errorf("50 appends take %v, alone %v", took, alone)
		}
		if reads := log.reads.Load(); reads > mostWaits {
			t.Errorf("looked %d times for a rival that was gone", reads)
		}
	})
}

func TestWhoComesLaterIsNoRival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &onDisk{Store: new(memstore.Store)}
		processes := []*stockLanes{lanes(t, log), lanes(t, log)}
		const times = 20
		for i := range times {
			if _, err := processes[i%2].Handle(t.Context(), "a", named(strconv.Itoa(i)), receive(1)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(50 * time.Millisecond)
		}
		if reads := log.reads.Load(); reads > times {
			t.Errorf("%d reads for %d commands, of which each follows another process's", reads, times)
		}
	})
}

func TestALaneThatGivesWayCanBeClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &onDisk{Store: new(memstore.Store)}
		processes := []*stockLanes{lanes(t, log), lanes(t, log)}
		besiege(t, processes, 8)
		began := time.Now()
		for _, h := range processes {
			h.Close()
		}
		if took := time.Since(began); took > 2*appendTakes {
			t.Errorf("closing took %v", took)
		}
	})
}

// A seller is one process that holds goods of the one SKU, many at a time.
type seller struct {
	store *tally
	sell  func(i int) error
	took  []time.Duration // guarded by the mutex of its fair
}

// A fair is some processes that sell the same SKU.
type fair struct {
	tb      testing.TB
	sellers []*seller
	next    atomic.Int64
	stop    atomic.Bool
	refused atomic.Int64
	done    chan struct{}
	mu      sync.Mutex
	wg      sync.WaitGroup
}

// newFair opens processes on a log, each a shop or no more than its lanes of stock.
func newFair(tb testing.TB, processes int, opened func(tb testing.TB, store *tally, snapshots commands.SnapshotStore) func(i int) error) *fair {
	tb.Helper()
	f := &fair{tb: tb, done: make(chan struct{}, 1<<16)}
	at := nodeOn(tb)
	for range processes {
		store, err := esdbstore.Open(tb.Context(), at, nil)
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() {
			if err := store.Close(); err != nil {
				tb.Error(err)
			}
		})
		s := &seller{store: &tally{Store: store}}
		s.sell = opened(tb, s.store, store)
		f.sellers = append(f.sellers, s)
	}
	return f
}

// holds are made by the lanes of stock alone.
func holds(tb testing.TB, store *tally, _ commands.SnapshotStore) func(i int) error {
	tb.Helper()
	h := lanes(tb, store, stockSpecWith(nil))
	ctx := context.WithoutCancel(tb.Context())
	if _, err := h.Handle(ctx, "a", named("stock"), receive(inventory.Limit/2)); err != nil {
		tb.Fatal(err)
	}
	return func(i int) error {
		_, err := h.Handle(ctx, "a", named(fmt.Sprint("h", i)), holdFor(tb, i))
		return err
	}
}

// buying has buyers come for one a each.
func buying(w *world) func(i int) error {
	return func(i int) error {
		who := "buyer-" + strconv.Itoa(i%100)
		id, _, err := w.DrawOrderID(w.ctx(), commands.Request{}, who)
		if err != nil {
			return err
		}
		_, err = w.Checkout(w.ctx(), named("checkout/"+string(id)), commands.Checkout{
			Order: id, Buyer: who, Items: []commands.Item{{SKU: "a", Quantity: 1}}, Address: home,
		})
		return err
	}
}

// open lets so many buyers come to every process, again and again.
func (f *fair) open(buyers int) {
	for _, s := range f.sellers {
		for range buyers {
			f.wg.Go(func() {
				for !f.stop.Load() {
					i := int(f.next.Add(1))
					began := time.Now()
					err := s.sell(i)
					if errors.Is(err, event.ErrConflict) {
						f.refused.Add(1)
						continue
					}
					if err != nil {
						f.tb.Error(err)
						return
					}
					f.mu.Lock()
					s.took = append(s.took, time.Since(began))
					f.mu.Unlock()
					f.done <- struct{}{}
				}
			})
		}
	}
}

func (f *fair) close() {
	f.stop.Store(true)
	gone := make(chan struct{})
	go func() {
		for {
			select {
			case <-f.done:
			case <-gone:
				return
			}
		}
	}()
	f.wg.Wait()
	close(gone)
}

// report says how the processes got on with each other: the share of the one
// that sold least, of what one would have if all had the same, and how long
// their buyers waited.
func (f *fair) report(b *testing.B) {
	b.Helper()
	var all []time.Duration
	var stored, lost, least, worst int64
	for i, s := range f.sellers {
		slices.Sort(s.took)
		n := int64(len(s.took))
		if i == 0 || n < least {
			least = n
		}
		if n > 0 {
			worst = max(worst, s.took[n*99/100].Microseconds())
		}
		all = append(all, s.took...)
		stored, lost = stored+s.store.stored.Load(), lost+s.store.lost.Load()
	}
	slices.Sort(all)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "holds/s")
	b.ReportMetric(float64(all[len(all)/2].Microseconds())/1e3, "p50-ms")
	b.ReportMetric(float64(worst)/1e3, "worst-p99-ms")
	b.ReportMetric(float64(all[len(all)-1].Microseconds())/1e3, "max-ms")
	b.ReportMetric(float64(least)*float64(len(f.sellers))/float64(len(all)), "least-share")
	b.ReportMetric(float64(len(all))/float64(stored), "holds/append")
	b.ReportMetric(float64(lost)/float64(stored), "conflicts/append")
	b.ReportMetric(float64(f.refused.Load()), "refused")
}

// BenchmarkHotSKU is a hold on the one SKU that everybody wants, of so many
// buyers in all, who ask so many processes.
func BenchmarkHotSKU(b *testing.B) {
	for _, buyers := range []int{64, 256, 1024} {
		compete(b, buyers, holds)
	}
}

// BenchmarkHotCheckout is a whole checkout of that SKU.
func BenchmarkHotCheckout(b *testing.B) {
	for _, buyers := range []int{32, 256} {
		compete(b, buyers, dividedInto(1))
	}
}

func compete(b *testing.B, buyers int, opened func(tb testing.TB, store *tally, snapshots commands.SnapshotStore) func(i int) error) {
	b.Helper()
	for _, processes := range []int{1, 2, 4} {
		b.Run(fmt.Sprintf("buyers=%d/processes=%d", buyers, processes), func(b *testing.B) {
			newFair(b, processes, opened).run(b, buyers/processes)
		})
	}
}
