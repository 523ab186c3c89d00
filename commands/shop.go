package commands

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/maypok86/otter/v2"

	"cartwright/domain"
	"cartwright/domain/account"
	"cartwright/domain/catalog"
	"cartwright/domain/event"
	"cartwright/domain/inventory"
	"cartwright/domain/order"
	"cartwright/domain/orderid"
	"cartwright/domain/payment"
	"cartwright/domain/personal"
	"cartwright/domain/stuck"
	"cartwright/domain/trade"
)

// A Sealer encrypts an address under its buyer's own key, making the key when
// the buyer has none. Admit refuses a buyer for whom none may be made.
type Sealer interface {
	Admit(ctx context.Context, buyer string) error
	Seal(ctx context.Context, buyer string, a personal.Address) ([]byte, error)
}

// checkoutsKnown is how many checkouts a process has in mind, to answer their
// repeats with less work; the streams know them all.
const checkoutsKnown = 100_000

// PayWithin is how long a checkout holds its stock while it waits for money.
const PayWithin = 30 * time.Minute

// Setup is what a Shop is made of.
type Setup struct {
	Store     Store
	Sealer    Sealer
	Now       func() time.Time // time.Now if nil
	PayWithin time.Duration    // the constant PayWithin if 0
	Register  Register         // nil where this process is the only one
	Log       Log              // where offers and scarce goods that others change are heard of; nil has every checkout read them

	Snapshots     SnapshotStore // nil: long streams are read from their beginning
	SnapshotEvery int           // events of a small state; a few thousand if 0

	Channels      map[string]Channel // for payments from outside, by name
	PollAfter     time.Duration      // when a channel is asked that has said nothing; PollAfter if 0
	CompleteAfter time.Duration      // after the delivery of all of an order; 0 is never
	Commission    int64              // of what sellers earn, in basis points
	Alarm         func(context.Context, Alarm)
}

// A Register remembers for all processes which order a request has placed, for
// about as long as anybody might send it again. It may forget and it may be
// away: a request is found by its order's id without it, and is only not told
// from another that comes under the same key with another order's id.
type Register interface {
	Look(ctx context.Context, cause string) (order string, known bool, err error)
	Remember(ctx context.Context, cause, order string) error
}

// A Shop carries out all commands. It may be used concurrently, and must be closed.
type Shop struct {
	sealer    Sealer
	now       func() time.Time
	payWithin time.Duration
	draw      *drawer
	busy      keyedLocks
	failed    *otter.Cache[string, struct{}] // order ids whose checkout has failed in this process, or nobody knows
	placed    *otter.Cache[string, string]   // order ids, by the cause that placed them
	register  Register                       // the same, of all processes; may be nil

	channels      map[string]Channel
	pollAfter     time.Duration
	completeAfter time.Duration
	commission    int64
	alarm         func(context.Context, Alarm)
	parked        sync.Map // names of streams that this process knows to be parked
	divided       splits

	payments *Handler[payment.Payment, payment.Command, payment.Event]
	trades   *Handler[trade.Trade, trade.Command, trade.Event]
	stuck    *Handler[stuck.List, stuck.Command, stuck.Event]
	orders   *Handler[order.Order, order.Command, order.Event]
	stock    *Handler[inventory.Stock, inventory.Command, inventory.Event]
	accounts *Handler[account.Account, account.Command, account.Event]
	offers   *Handler[catalog.Offer, catalog.Command, catalog.Event]
	ids      *Handler[orderid.Issuance, orderid.Command, orderid.Event]
}

// Events lists every event there is, by stored name.
func Events() (*event.Registry, error) {
	var types []event.Type
	for _, some := range [][]event.Type{
		order.Types(), inventory.Types(), account.Types(), catalog.Types(), orderid.Types(), personal.Types(),
		payment.Types(), trade.Types(), stuck.Types(),
	} {
		types = append(types, some...)
	}
	return event.NewRegistry(types...)
}

// Open makes a Shop.
func Open(s Setup) (*Shop, error) {
	if s.Store == nil || s.Sealer == nil {
		return nil, errors.New("a shop needs a store and a sealer")
	}
	if s.Now == nil {
		s.Now = time.Now
	}
	if s.PayWithin <= 0 {
		s.PayWithin = PayWithin
	}
	if s.PollAfter <= 0 {
		s.PollAfter = PollAfter
	}
	if s.Alarm == nil {
		s.Alarm = func(context.Context, Alarm) {}
	}
	if err := s.checkMoney(); err != nil {
		return nil, err
	}
	events, err := Events()
	if err != nil {
		return nil, err
	}
	failed, err := otter.New(&otter.Options[string, struct{}]{MaximumSize: checkoutsKnown})
	if err != nil {
		return nil, fmt.Errorf("cache of failed checkouts: %w", err)
	}
	placed, err := otter.New(&otter.Options[string, string]{MaximumSize: checkoutsKnown})
	if err != nil {
		return nil, fmt.Errorf("cache of placed checkouts: %w", err)
	}
	shop := &Shop{
		sealer: s.Sealer, now: s.Now, payWithin: s.PayWithin, draw: newDrawer(s.Now), failed: failed, placed: placed, register: s.Register,
		channels: s.Channels, pollAfter: s.PollAfter, completeAfter: s.CompleteAfter, commission: s.Commission, alarm: s.Alarm,
		divided: newSplits(),
	}
	heard := s
	scarce := s.Log
	s.Log = nil // but for offers, what is looked at is decided on, or has just been changed
	return shop, errors.Join(
		open(&shop.payments, s, events, "payment", payment.Decider, nil, nil),
		open(&shop.trades, s, events, "trade", trade.Decider, nil, nil),
		open(&shop.stuck, s, events, "stuck", stuck.Decider, nil, nil),
		open(&shop.orders, s, events, "order", order.Decider, nil, nil),
		openWatched(&shop.stock, s, events, "inventory", inventory.Decider, reservationEvent, kept(s, stockFold, inventory.Stock.Check), scarce),
		open(&shop.accounts, s, events, "account", account.Decider, journalEvent, kept(s, accountFold, account.Account.Check)),
		open(&shop.offers, heard, events, "offer", catalog.Decider, nil, nil),
		open(&shop.ids, s, events, "orderids", orderid.Decider, nil, nil),
	)
}

func open[S, C, E any](h **Handler[S, C, E], s Setup, events *event.Registry, category string,
	d domain.Decider[S, C, E], natural func(E) bool, snapshots *Snapshots[S],
) (err error) {
	return openWatched(h, s, events, category, d, natural, snapshots, nil)
}

// openWatched is open for streams that many come for and few get anything of.
func openWatched[S, C, E any](h **Handler[S, C, E], s Setup, events *event.Registry, category string,
	d domain.Decider[S, C, E], natural func(E) bool, snapshots *Snapshots[S], watched Log,
) (err error) {
	*h, err = NewHandler(Spec[S, C, E]{
		Store: s.Store, Events: events, Decider: d, Category: category, Now: s.Now, Natural: natural, Snapshots: snapshots,
		Log: s.Log, Watched: watched,
	})
	return err
}

// The versions of the folds whose states are kept in snapshots. One is raised
// when its aggregate comes to make something else of the same events, or writes
// its state otherwise.
const (
	stockFold   = 2
	accountFold = 1
)

// kept are the snapshots of an aggregate that has long streams: a SKU that sells
// well, an account of the platform's own. No other has.
func kept[S any](s Setup, version int, check func(S) error) *Snapshots[S] {
	if s.Snapshots == nil {
		return nil
	}
	return &Snapshots[S]{Store: s.Snapshots, Version: version, Check: check, Every: s.SnapshotEvery}
}

// reservationEvent tells the events that a SKU sees with every order. They are
// known again by order, attempt, parcel and refund, those of transfers by their
// number; remembering the causes of millions would do nothing more.
func reservationEvent(e inventory.Event) bool {
	switch e.(type) {
	case inventory.Received, inventory.Adjusted, inventory.Counted, inventory.PolicySet, inventory.Divided:
		return false
	case inventory.TransferredOut, inventory.TransferredIn, inventory.TransferSettled:
		return true
	case inventory.Held, inventory.Committed, inventory.Released,
		inventory.ShippedOut, inventory.Deallocated, inventory.Restocked:
		return true
	}
	return false
}

// journalEvent tells the events that a busy account sees with every order: they
// are known again by their journal, or by the order whose money they hold.
func journalEvent(e account.Event) bool {
	switch e.(type) {
	case account.Opened, account.Deposited, account.Withdrawn:
		return false
	case account.Held, account.Captured, account.Released, account.Credited, account.Debited, account.Posted:
		return true
	}
	return false
}

// Close waits for the commands under way.
func (s *Shop) Close() {
	s.payments.Close()
	s.trades.Close()
	s.stuck.Close()
	s.orders.Close()
	s.stock.Close()
	s.accounts.Close()
	s.offers.Close()
	s.ids.Close()
}

// PublishOffer makes p the offer of sku. Saying what is already so changes nothing.
func (s *Shop) PublishOffer(ctx context.Context, r Request, sku string, p catalog.Publish) (Done[catalog.Event], error) {
	p.Snapshot.SKU = sku
	return s.offers.Handle(ctx, sku, r, p)
}

// Inventory changes the stock of sku.
func (s *Shop) Inventory(ctx context.Context, r Request, sku string, c inventory.Command) (Done[inventory.Event], error) {
	return s.change(ctx, sku, r, c)
}

// Account changes an account.
func (s *Shop) Account(ctx context.Context, r Request, id string, c account.Command) (Done[account.Event], error) {
	return s.accounts.Handle(ctx, id, r, c)
}

// Order changes an order that stands. What is delivered now completes by itself
// some day; what an import says was delivered in the past does not.
func (s *Shop) Order(ctx context.Context, r Request, id orderid.ID, c order.Command) (Done[order.Event], error) {
	if d, ok := c.(order.Deliver); ok && r.At.IsZero() && s.completeAfter > 0 {
		d.Completes = s.now().Add(s.completeAfter).UTC().Truncate(time.Millisecond)
		c = d
	}
	return s.orders.Handle(ctx, string(id), r, c)
}

// ChangeAddress sends an order elsewhere.
func (s *Shop) ChangeAddress(ctx context.Context, r Request, id orderid.ID, a personal.Address) (Done[order.Event], error) {
	if err := a.Check("/address"); err != nil {
		return Done[order.Event]{}, err
	}
	o, err := s.FindOrder(ctx, id)
	if err != nil {
		return Done[order.Event]{}, err
	}
	sealed, err := s.sealer.Seal(ctx, o.Buyer, a)
	if err != nil {
		return Done[order.Event]{}, fmt.Errorf("seal the address of %s: %w", id, err)
	}
	return s.orders.Handle(ctx, string(id), r, order.ChangeAddress{Address: sealed})
}

// Cancel gives an order up, once all orders of its checkout stand.
func (s *Shop) Cancel(ctx context.Context, r Request, id orderid.ID, c order.Cancel) (Done[order.Event], error) {
	o, err := s.FindOrder(ctx, id)
	if err != nil {
		return Done[order.Event]{}, err
	}
	if _, err := s.standing(ctx, o); err != nil {
		return Done[order.Event]{}, err
	}
	return s.orders.Handle(ctx, string(id), r, c)
}

func unknownOrder(id string) error {
	return domain.Refuse(domain.NotFound, "unknown_order", "There is no order %s.", id)
}

// DrawOrderID gives out an id for an order of buyer. Asked twice with one cause
// it gives the same one, for ever.
func (s *Shop) DrawOrderID(ctx context.Context, r Request, buyer string) (orderid.ID, bool, error) {
	id, err := s.draw.next(ctx, buyer)
	if err != nil || r.Cause == "" {
		return id, false, err
	}
	// The stream is named by the key alone, so that the same key for another buyer is found and refused.
	book := uuid.NewSHA1(namespace, []byte(r.Cause)).String()
	done, err := s.ids.Create(ctx, book, r, orderid.Issue{Order: string(id), Buyer: buyer})
	if err != nil {
		return "", false, err
	}
	if issued, ok := first[orderid.Issued](done.Events); ok {
		return orderid.ID(issued.Order), done.Repeated, nil
	}
	return "", false, fmt.Errorf("%s says of no id that it was issued", done.Stream)
}

// first finds the first event of type T.
func first[T, E any](events []E) (T, bool) {
	for _, e := range events {
		if t, ok := any(e).(T); ok {
			return t, true
		}
	}
	var none T
	return none, false
}

// FindOrder gives an order as it is now.
func (s *Shop) FindOrder(ctx context.Context, id orderid.ID) (order.Order, error) {
	o, _, err := s.orders.State(ctx, string(id))
	if err == nil && o.Status == order.StatusNone {
		err = unknownOrder(string(id))
	}
	return o, err
}
