package commands_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"cartwright/commands"
	"cartwright/domain/account"
	"cartwright/domain/event"
	"cartwright/domain/inventory"
	"cartwright/domain/orderid"
	"cartwright/domain/personal"
	"cartwright/infra/faults"
	"cartwright/infra/keyring"
	"cartwright/infra/memstore"
)

// A counted store knows how many events of each stream were read.
type counted struct {
	*memstore.Store
	mu   sync.Mutex
	read map[string]int
}

func (c *counted) Load(ctx context.Context, stream string, after event.Revision) iter.Seq2[event.Recorded, error] {
	return func(yield func(event.Recorded, error) bool) {
		for r, err := range c.Store.Load(ctx, stream, after) {
			c.mu.Lock()
			if c.read == nil {
				c.read = map[string]int{}
			}
			c.read[stream]++
			c.mu.Unlock()
			if !yield(r, err) {
				return
			}
		}
	}
}

// reads says how many events of a stream were read since it was last asked.
func (c *counted) reads(stream string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.read[stream]
	c.read = nil
	return n
}

// keeping has a handler keep snapshots.
func keeping(store commands.SnapshotStore, version, every int) func(*stockSpec) {
	return func(s *stockSpec) {
		s.Snapshots = &commands.Snapshots[inventory.Stock]{Store: store, Version: version, Check: inventory.Stock.Check, Every: every}
	}
}

// receiveMany has n commands run one after the other, and their snapshots written.
func receiveMany(tb testing.TB, h *stockLanes, from, n int) {
	tb.Helper()
	for i := range n {
		if _, err := h.Handle(context.WithoutCancel(tb.Context()), "a", named(strconv.Itoa(from+i)), receive(1)); err != nil {
			tb.Fatal(err)
		}
	}
	h.Close()
}

func onHand(tb testing.TB, h *stockLanes) (int64, event.Revision) {
	tb.Helper()
	s, at, err := h.State(context.WithoutCancel(tb.Context()), "a")
	if err != nil {
		tb.Fatal(err)
	}
	return s.OnHand, at
}

func TestALongStreamIsNotReadFromItsBeginning(t *testing.T) {
	store := &counted{Store: new(memstore.Store)}
	// Whoever closes waits for the snapshot that is being written, on a busy machine too.
	for i := range 10 {
		receiveMany(t, lanes(t, store, keeping(store, 1, 20)), i*100, 100)
	}
	store.reads("inventory-a")
	h := lanes(t, store, keeping(store, 1, 20))
	if n, at := onHand(t, h); n != 1000 || at != 1000 {
		t.Fatalf("%d on hand at %d", n, at)
	}
	// The state is small, but knows a thousand causes: that many bytes are worth some events.
	if n := store.reads("inventory-a"); n == 0 || n > 900 {
		t.Fatalf("%d events were read", n)
	}
	done, err := h.Handle(t.Context(), "a", named("3"), receive(1))
	if err != nil || !done.Repeated || done.Revision != 4 {
		t.Fatalf("a repeat from before the snapshot: %+v, %v", done, err)
	}
}

func TestAShortStreamIsReadAlone(t *testing.T) {
	store := &counted{Store: new(memstore.Store)}
	receiveMany(t, lanes(t, store, keeping(store, 1, 8)), 0, 9)
	for r, err := range store.Store.Load(t.Context(), "snapshot-inventory-a", 0) {
		if err != nil || r.Revision != 1 {
			t.Fatalf("%d, %v", r.Revision, err)
		}
	}
	h := lanes(t, store, keeping(store, 1, 80))
	if n, _ := onHand(t, h); n != 9 {
		t.Fatalf("%d on hand", n)
	}
	if n := store.reads("snapshot-inventory-a"); n != 0 {
		t.Fatalf("%d parts were read", n)
	}
}

func TestASnapshotThatIsOfNoUseIsPassedOver(t *testing.T) {
	for name, spoil := range map[string]func(*event.Recorded){
		"of another fold":      func(*event.Recorded) {},
		"whose bytes are lost": func(r *event.Recorded) { spoilPart(r, "data", "e30=") },
		"of which parts lack":  func(r *event.Recorded) { spoilPart(r, "of", 2) },
		"with another's part":  func(r *event.Recorded) { spoilPart(r, "number", 2) },
		"of a newer program":   func(r *event.Recorded) { r.Version = 2 },
		"that nobody knows":    func(r *event.Recorded) { r.Name = "snapshot.other" },
	} {
		t.Run("one "+name, func(t *testing.T) {
			store := new(memstore.Store)
			receiveMany(t, lanes(t, store, keeping(store, 1, 20)), 0, 30)
			spoiled := new(memstore.Store)
			found := 0
			for r, err := range store.All(t.Context(), 0) {
				if err != nil {
					t.Fatal(err)
				}
				if strings.HasPrefix(r.Stream, "snapshot-") {
					spoil(&r)
					found++
				}
				if err = spoiled.Append(t.Context(), r.Stream, r.Revision-1, []event.Recorded{r}); err != nil {
					t.Fatal(err)
				}
			}
			if found == 0 {
				t.Fatal("no snapshot")
			}
			version := 1
			if name == "of another fold" {
				version = 2
			}
			h := lanes(t, spoiled, keeping(spoiled, version, 20))
			if n, at := onHand(t, h); n != 30 || at != 30 {
				t.Fatalf("%d on hand at %d", n, at)
			}
			receiveMany(t, h, 30, 100) // and the next one goes behind it
			counting := &counted{Store: spoiled}
			if n, at := onHand(t, lanes(t, counting, keeping(counting, version, 20))); n != 130 || at != 130 {
				t.Fatalf("%d on hand at %d", n, at)
			}
			if n := counting.reads("inventory-a"); n > 110 {
				t.Fatalf("%d events were read", n)
			}
		})
	}
}

func spoilPart(r *event.Recorded, field string, value any) {
	var part map[string]any
	if err := json.Unmarshal(r.Data, &part); err != nil {
		panic(err)
	}
	part[field] = value
	text, err := json.Marshal(part)
	if err != nil {
		panic(err)
	}
	r.Data = text
}

// A snapshot that a Check refuses, though it came back as it was written.
func TestASnapshotIsChecked(t *testing.T) {
	store := &counted{Store: new(memstore.Store)}
	receiveMany(t, lanes(t, store, keeping(store, 1, 20)), 0, 30)
	store.reads("")
	h := lanes(t, store, keeping(store, 1, 20), func(s *stockSpec) {
		s.Snapshots.Check = func(inventory.Stock) error { return errors.New("not like this") }
	})
	if n, _ := onHand(t, h); n != 30 {
		t.Fatalf("%d on hand", n)
	}
	if n := store.reads("inventory-a"); n < 30 {
		t.Fatalf("%d events were read", n)
	}
}

func holdFor(tb testing.TB, n int) inventory.Hold {
	tb.Helper()
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).Add(time.Duration(n) * time.Millisecond)
	id, err := orderid.Make(at, 0, "1")
	if err != nil {
		tb.Fatal(err)
	}
	return inventory.Hold{Order: string(id), Attempt: "0b6a4a52-0000-4000-8000-000000000000", Quantity: 1, Now: at, Expires: at.Add(time.Minute)}
}

// holdMany makes n holds, many an append, and has their snapshots written.
func holdMany(tb testing.TB, h *stockLanes, n int) {
	tb.Helper()
	ctx := context.WithoutCancel(tb.Context())
	if _, err := h.Handle(ctx, "a", named("stock"), receive(inventory.Limit)); err != nil {
		tb.Fatal(err)
	}
	const workers = 500
	var wg sync.WaitGroup
	for w := range min(workers, n) {
		wg.Go(func() {
			for i := w; i < n; i += workers {
				c := holdFor(tb, i)
				if _, err := h.Handle(ctx, "a", named("h"+strconv.Itoa(i)), c); err != nil {
					tb.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestASnapshotMayHaveManyParts(t *testing.T) {
	store := &counted{Store: new(memstore.Store)}
	h := lanes(t, store, keeping(store, 1, 3000), func(s *stockSpec) { s.Natural = func(inventory.Event) bool { return true } })
	holdMany(t, h, 10_000)
	want, at, err := h.State(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	h.Close()
	store.reads("")
	again := lanes(t, store, keeping(store, 1, 3000))
	got, gotAt, err := again.State(t.Context(), "a")
	if err != nil || gotAt != at {
		t.Fatalf("at %d, %v", gotAt, err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("came back otherwise (-want +got):\n%s", diff)
	}
	parts := 0
	for _, err := range store.Store.Load(t.Context(), "snapshot-inventory-a", 0) {
		if err != nil {
			t.Fatal(err)
		}
		parts++
	}
	if parts < 2 {
		t.Fatalf("%d parts are shown", parts)
	}
	if n := store.reads("inventory-a"); n > 9500 {
		t.Fatalf("%d events were read", n)
	}
}

func TestOnlyTheNewestSnapshotsAreShown(t *testing.T) {
	store := new(memstore.Store)
	for i := range 20 {
		receiveMany(t, lanes(t, store, keeping(store, 1, 5)), i*50, 50)
	}
	shown, last := 0, event.Revision(0)
	for r, err := range store.Load(t.Context(), "snapshot-inventory-a", 0) {
		if err != nil {
			t.Fatal(err)
		}
		shown, last = shown+1, r.Revision
	}
	if shown > 2 || last < 10 {
		t.Fatalf("%d are shown of %d", shown, last)
	}
}

func TestSnapshotsNeedAStoreAndAVersion(t *testing.T) {
	events, err := event.NewRegistry(inventory.Types()...)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*commands.Snapshots[inventory.Stock]{{Version: 1}, {Store: new(memstore.Store)}} {
		spec := stockSpec{Store: new(memstore.Store), Events: events, Decider: inventory.Decider, Category: "inventory", Snapshots: s}
		if _, err := commands.NewHandler(spec); err == nil {
			t.Errorf("%+v is taken", s)
		}
	}
}

// slow gives so many events at a read, and then nothing until ctx ends.
type slow struct {
	commands.Store
	at int
}

func (s slow) Load(ctx context.Context, stream string, after event.Revision) iter.Seq2[event.Recorded, error] {
	return func(yield func(event.Recorded, error) bool) {
		n := 0
		for r, err := range s.Store.Load(ctx, stream, after) {
			if n++; n > s.at {
				<-ctx.Done()
				yield(event.Recorded{}, fmt.Errorf("load %s: %w", stream, ctx.Err()))
				return
			}
			if !yield(r, err) {
				return
			}
		}
	}
}

func TestAReadThatRunsOutOfTimeGoesOnWhereItStopped(t *testing.T) {
	store := new(memstore.Store)
	receiveMany(t, lanes(t, store), 0, 100)
	h := lanes(t, slow{store, 30}, func(s *stockSpec) { s.Timeout = 20 * time.Millisecond })
	for try := 1; ; try++ {
		s, at, err := h.State(t.Context(), "a")
		if err == nil && at == 100 && s.OnHand == 100 {
			return
		}
		if try > 4 {
			t.Fatalf("after %d tries: %d on hand at %d, %v", try, s.OnHand, at, err)
		}
	}
}

// Whatever fails, and however often a process starts anew, its snapshots say
// what the streams say.
func TestSnapshotsNeverTellOtherwise(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		store := new(memstore.Store)
		plan := rapid.SliceOfN(rapid.IntRange(0, 4), 40, 40).Draw(t, "faults")
		var mu sync.Mutex
		flaky := func(stream string) error {
			mu.Lock()
			defer mu.Unlock()
			if len(plan) == 0 || !strings.HasPrefix(stream, "snapshot-") {
				return nil
			}
			n := plan[0]
			plan = plan[1:]
			if n == 0 {
				return faults.ErrInjected
			}
			return nil
		}
		broken := faultyKeeper{faults.Store{Store: store, BeforeLoad: flaky, BeforeAppend: flaky, AfterAppend: flaky}, store}
		events, err := event.NewRegistry(inventory.Types()...)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for range rapid.IntRange(1, 6).Draw(t, "lives") {
			h, err := commands.NewHandler(stockSpec{
				Store: store, Events: events, Decider: inventory.Decider, Category: "inventory",
				Snapshots: &commands.Snapshots[inventory.Stock]{Store: broken, Version: 1, Check: inventory.Stock.Check, Every: 2},
			})
			if err != nil {
				t.Fatal(err)
			}
			for range rapid.IntRange(0, 12).Draw(t, "commands") {
				n++
				if _, err = h.Handle(context.Background(), "a", named(strconv.Itoa(n)), receive(1)); err != nil {
					t.Fatal(err)
				}
			}
			s, at, err := h.State(context.Background(), "a")
			if err != nil || s.OnHand != int64(n) || int(at) != n {
				t.Fatalf("%d on hand at %d, want %d: %v", s.OnHand, at, n, err)
			}
			h.Close()
		}
	})
}

type faultyKeeper struct {
	faults.Store
	keeper *memstore.Store
}

func (f faultyKeeper) KeepNewest(ctx context.Context, stream string, n int) error {
	return f.keeper.KeepNewest(ctx, stream, n)
}

// When a history that is known by heart comes to be told otherwise in a
// snapshot, somebody must raise the version of its fold (stockFold,
// accountFold), or processes would go on from states of the old code.
func TestTheSnapshotsOfKnownHistories(t *testing.T) {
	order, other := holdFor(t, 0).Order, holdFor(t, 1).Order
	expires := time.Date(2026, 3, 1, 13, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		name, stream string
		past         []any
	}{
		{"inventory", "inventory-a", []any{
			inventory.Received{Quantity: 100, Reference: "r"},
			inventory.PolicySet{Safety: 1, Backorder: 2},
			inventory.Adjusted{OnHand: -1, Unavailable: 2, Reason: "wet"},
			inventory.Held{Order: order, Attempt: "a", Quantity: 5, Expires: expires},
			inventory.Held{Order: other, Attempt: "b", Quantity: 6, Expires: expires},
			inventory.Committed{Order: other, Quantity: 6},
			inventory.ShippedOut{Order: other, Parcel: "p", Quantity: 2},
			inventory.Deallocated{Order: other, Refund: "f", Quantity: 1},
			inventory.Restocked{Order: other, Refund: "g", Quantity: 1, Damaged: true},
			inventory.Held{Order: holdFor(t, 2).Order, Attempt: "c", Quantity: 1, Expires: expires},
			inventory.Released{Order: holdFor(t, 2).Order, Attempt: "c", Quantity: 1, Reason: "r"},
			inventory.Held{Order: holdFor(t, 25*60*60*1000).Order, Attempt: "d", Quantity: 1, Expires: expires},
			inventory.TransferredIn{From: 2, Transfer: 1, Quantity: 3},
			inventory.TransferredOut{To: 2, Transfer: 1, Quantity: 4},
			inventory.TransferSettled{To: 2, Transfer: 1},
			inventory.TransferredOut{To: 3, Transfer: 1, Quantity: 5},
		}},
		{"account", "account-ann", []any{
			account.Opened{Account: "ann", Currency: "BRL"},
			account.Deposited{Entry: 1, Amount: 1000, Journal: "d1", Reference: "r"},
			account.Withdrawn{Entry: 2, Amount: 1, Journal: "w1", Reference: "r"},
			account.Posted{Entry: 1},
			account.Held{Checkout: order, Claims: []account.Claim{{Order: order, Amount: 7}, {Order: other, Amount: 8}}, Expires: expires},
			account.Captured{Entry: 3, Order: other, Amount: 8, Journal: "c1", To: "platform.escrow.BRL"},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			store := new(memstore.Store)
			putMany(t, store, tt.stream, tt.past)
			snapshotOf(t, store, tt.stream, tt.name)
			parts := 0
			for r, err := range store.Load(t.Context(), "snapshot-"+tt.stream, 0) {
				if err != nil {
					t.Fatal(err)
				}
				parts++
				sameAsGolden(t, tt.name, r)
			}
			if parts != 1 {
				t.Fatalf("%d parts", parts)
			}
		})
	}
}

// putMany appends events as if somebody had decided them long ago.
func putMany(t *testing.T, store *memstore.Store, stream string, past []any) {
	t.Helper()
	events, err := commands.Events()
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range past {
		r, err := events.Encode(e)
		if err != nil {
			t.Fatal(err)
		}
		r.ID = fmt.Sprintf("6f0f6b9e-4e4d-4b8f-9d0a-%012d", i+1)
		r.Cause, r.Digest = "cause-"+strconv.Itoa(i), "digest"
		if err = store.Append(t.Context(), stream, event.Revision(i), []event.Recorded{r}); err != nil {
			t.Fatal(err)
		}
	}
}

// snapshotOf has the shop's own handlers keep a snapshot.
func snapshotOf(t *testing.T, store *memstore.Store, stream, kind string) {
	t.Helper()
	ring, err := keyring.New(store, make([]byte, personal.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	clock := newClock()
	shop, err := commands.Open(commands.Setup{
		Store: store, Sealer: ring, Snapshots: store, SnapshotEvery: 1,
		Now: func() time.Time { return time.UnixMilli(clock.Add(1)) },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer shop.Close()
	switch kind {
	case "inventory":
		_, err = shop.Inventory(t.Context(), named("count"), event.SubjectID(stream), inventory.Count{OnHand: 90, Reason: "june"})
	default:
		_, err = shop.Account(t.Context(), named("more"), event.SubjectID(stream), account.Deposit{Amount: 5, Currency: "BRL", Journal: "d2"})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// sameAsGolden compares a stored part with the file of its fold's version.
func sameAsGolden(t *testing.T, kind string, r event.Recorded) {
	t.Helper()
	var part struct {
		Version int    `json:"version"`
		Data    []byte `json:"data"`
	}
	if err := json.Unmarshal(r.Data, &part); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("testdata", fmt.Sprintf("%s.v%d.json", kind, part.Version))
	got := fmt.Sprintf("{\n\"name\": %q, \"version\": %d,\n\"part\": %s,\n\"whole\": %s\n}\n", r.Name, r.Version, r.Data, part.Data)
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v: every version of a fold that is kept needs its file", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("the fold of %s has changed (-was +is): raise its version in shop.go\n%s", kind, diff)
	}
}
