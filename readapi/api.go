// Package readapi is the HTTP query API: orders by id, lists and sums of them,
// stock, offers, accounts and payments, as the views have them.
//
// # Why
//
// A query that carries a Cartwright-Token waits, for a bounded time, until its
// view has those streams at those revisions; only the streams its view follows
// count (TestAQueryWaitsForWhatItsTokenNames). A list that is not in time is
// told to come again. One order is not waited for at all: where its document is
// missing or behind, its stream is folded on the spot, which takes one read and
// is never wrong (TestAnOrderIsFoldedWhereItsViewIsBehind). Waiting first was
// rejected: it is slower in every case. Where the same process writes, an order
// is not shown older than it was written there, token or not
// (TestAnOrderIsNeverOlderThanThisProcessWroteIt).
//
// A document whose stream is parked is not shown as if it were the newest: the
// order is folded, so that its reader learns that the history is corrupt, and
// readers of other orders notice nothing (TestACorruptOrderIsReportedAlone).
//
// Views may be away, and orders are not: one order by its id is then folded from
// its stream, while lists, sums and statements answer 503 with Retry-After
// (TestAnOrderIsServedWhileTheViewsAreAway). Folding a list was rejected: it is
// as long as the buyer's whole history, just when the system is in trouble.
//
// A list has all of somebody's orders unless it is asked for less: orders that
// vanish when they are old would surprise everybody (TestAListLeavesNothingOutUnlessAskedTo).
// What is in the archive is a matter of storage, so an order does not tell; when
// it was closed, it does. Every token is waited for alike, whatever the scope.
//
// Waits are told to whoever measures them, and so is the fold that takes the
// place of one (TestWaitsAreToldOnce): a view that falls behind shows there
// before anybody is told to come again.
//
// An order's times are told as texts: as time.Time they take encoding/json a third
// of what it takes to write a list. What is written is the same
// (TestTimesAreWrittenAsEncodingJSONWritesThem, TestOddOrdersByTheLetter). To
// write answers with bytedance/sonic was tried: it is no faster then, and writes
// some control characters otherwise.
//
// Cursors are authenticated and bound to the query they came from. A cursor is
// a position in somebody's list; taken over to another list, or made up, it
// would skip orders silently (TestACursorIsGoodForItsOwnQueryOnly).
//
// A seller's summary is in one currency, the one asked for or the one with the
// most orders, since amounts of several have no sum. The others follow in
// other_currencies. Where nothing was sold the currency is null, unless one was
// asked for. All statuses are always there.
//
// A payment's status goes on where the aggregate's ends: what was captured is
// partially_refunded, then refunded, once the money is back and not when that is
// decided (TestAPaymentSaysWhatHasGoneBack). The money that came unasked and goes
// back whole is no part of it. How to pay is told while that can be done, and not
// kept for later: it may be a way into somebody's wallet
// (TestOnlyAnOpenPaymentTellsHowToPay). Payments are named by their checkout and
// a number, so a checkout's are asked for by name; a list of them in the view
// would be one more thing to keep (TestAllPaymentsOfACheckoutAreFound).
//
// A settlement statement is the seller's account read through the names of its
// journals, which say whose order it was (TestASellersSettlements). A view of its
// own would have the same entries a second time, and could differ.
//
// An export has all there is, newest entry first: the view reads that way, and
// what is entered meanwhile neither moves a row nor a balance. It is a page in
// memory, whatever its length (TestAFileHasEveryEntryAndHoldsFewAtOnce). After its
// first page a failure can only cut the connection, for whatever ends in order
// looks complete (TestHalfAFileDoesNotLookWhole); a number that is missing in the
// view is such a failure (TestAFileWithAGapIsCutOff). The bound on a request's
// time is on each of its pages (TestAnExportMayTakeLongerThanARequest). Texts that
// a spreadsheet would run begin with an apostrophe there, and nowhere else
// (TestACellIsNeverAFormula); amounts are numbers, as minor units and with the
// currency's digits (TestAmountsHaveTheDigitsOfTheirCurrency).
package readapi

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"log/slog"
	"sync"
	"time"

	"github.com/gin-gonic/gin"

	"cartwright/domain/event"
	"cartwright/domain/personal"
	"cartwright/infra/problem"
	"cartwright/projections"
)

// A View has the documents of one view, and says how far it is.
type View[V any] interface {
	Get(ctx context.Context, streams []string) (map[string]projections.Doc[V], error)
	projections.Seen
}

// Buyers has orders by id, and each buyer's newest.
type Buyers interface {
	View[projections.Order]
	Newest(ctx context.Context, buyer string, limit int, after *projections.Cursor) (projections.OrderPage, error)
}

// An Index finds orders and sums them up.
type Index interface {
	Orders(ctx context.Context, q projections.OrderQuery) (projections.OrderPage, error)
	Summary(ctx context.Context, q projections.SummaryQuery) (projections.Summary, error)
	projections.Seen
}

// Accounts has accounts and their statements.
type Accounts interface {
	View[projections.Account]
	Entries(ctx context.Context, account string, before int64, limit int) (projections.EntryPage, error)
}

// Log reads streams from the event store.
type Log interface {
	Load(ctx context.Context, stream string, after event.Revision) iter.Seq2[event.Recorded, error]
}

// Keys open what is sealed under a buyer's key.
type Keys interface {
	Address(ctx context.Context, buyer string, sealed []byte) (personal.Address, error)
}

// Config is what the routes need: all of it but Wait, Flushed, Newest and Waited.
type Config struct {
	Log          *slog.Logger
	CursorSecret []byte // at least 16 bytes; with another one, cursors given out before are refused

	Buyers   Buyers
	Index    Index
	Stock    View[projections.Stock]
	Offers   View[projections.Offer]
	Accounts Accounts
	Payments View[projections.Payment]

	Store  Log // for an order whose document is behind
	Events *event.Registry
	Keys   Keys
	Erased error // what Keys answers for a buyer whose key was destroyed

	Wait    time.Duration          // for a token's revisions; 2 s if 0
	Flushed func() <-chan struct{} // closes when a view has stored more; nil if nothing tells

	// Newest is the revision up to which this very process has written a stream
	// lately, 0 if it has not: one order is never shown older than that, token
	// or not. Nil where this process writes nothing.
	Newest func(stream string) event.Revision

	// Waited is told of every wait that a token caused, once it is over, and of
	// every single order that was folded: by which view, how long it took, and
	// what came of it (Met, Late, Parked or Folded). It must not block. May be nil.
	Waited func(view string, took time.Duration, outcome string)
}

const (
	defaultWait = 2 * time.Second
	minSecret   = 16
)

type api struct {
	Config
	texts sync.Pool // of *bytes.Buffer, for answers on their way
}

// Routes adds the queries to r.
func Routes(r gin.IRouter, cfg Config) error {
	if cfg.Log == nil || cfg.Store == nil || cfg.Events == nil || cfg.Keys == nil || cfg.Erased == nil {
		return errors.New("the read API needs a log, a store with its events, and keys with what they say of an erased buyer")
	}
	if cfg.Buyers == nil || cfg.Index == nil || cfg.Stock == nil || cfg.Offers == nil || cfg.Accounts == nil || cfg.Payments == nil {
		return errors.New("the read API needs all views")
	}
	if len(cfg.CursorSecret) < minSecret {
		return errors.New("the read API needs a cursor secret of 16 bytes or more")
	}
	if cfg.Wait <= 0 {
		cfg.Wait = defaultWait
	}
	a := &api{Config: cfg}
	a.texts.New = func() any { return new(bytes.Buffer) }
	v1 := r.Group("/v1")
	v1.GET("/skus/:sku", a.query(a.offer))
	v1.GET("/inventory/:sku", a.query(a.stock))
	v1.GET("/orders/:order_id", a.query(a.oneOrder))
	v1.GET("/buyers/:buyer_id/orders", a.query(a.buyersOrders, listParameters...))
	v1.GET("/sellers/:seller_id/orders", a.query(a.sellersOrders, listParameters...))
	v1.GET("/sellers/:seller_id/summary", a.query(a.summary, "from", "to", "interval", "currency"))
	a.moneyRoutes(v1)
	return nil
}

func (a *api) moneyRoutes(v1 gin.IRouter) {
	v1.GET("/accounts/:account_id", a.query(a.account))
	v1.GET("/accounts/:account_id/entries", a.query(a.entries, "limit", "cursor"))
	v1.GET("/accounts/:account_id/statement.csv", a.export(a.statementFile))
	v1.GET("/sellers/:seller_id/settlements", a.query(a.settlements, "currency", "limit", "cursor"))
	v1.GET("/sellers/:seller_id/settlements.csv", a.export(a.settlementsFile, "currency"))
	v1.GET("/payments/:payment_id", a.query(a.payment))
	v1.GET("/checkouts/:order_id/payments", a.query(a.checkoutPayments))
}

// listParameters are what a list of orders can be asked for.
var listParameters = []string{"status", "fulfilment", "from", "to", "q", "scope", "limit", "cursor"}

// query makes a route of run, which knows these parameters and no others.
func (a *api) query(run func(context.Context, *request) (answer, error), parameters ...string) gin.HandlerFunc {
	return problem.Handler(a.Log, func(c *gin.Context) error {
		in, err := read(c, parameters)
		if err != nil {
			return err
		}
		out, err := run(c.Request.Context(), in)
		if errors.Is(err, projections.ErrUnavailable) {
			return away(err)
		}
		if err != nil {
			return err
		}
		return a.write(c, out)
	})
}
