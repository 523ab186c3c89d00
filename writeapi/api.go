// Package writeapi is the HTTP command API: each route reads a request
// strictly, carries out one command and answers with what became of it. No
// rule of the business lives here; what is checked is the form, so that a
// nonsense request costs no command.
//
// # Why
//
// A command is named by its caller. The cause that stands on every event is a
// UUIDv5 of principal, route, target and Idempotency-Key, so that one key means
// the same command wherever it arrives, and two commands on two routes or from
// two callers (TestACauseIsPrincipalRouteTargetAndKey). A PUT says what shall
// be and guards itself by If-Match; a key on it is ignored, because a late
// retry must be refused as stale and not be answered from the past
// (TestAKeyOnAPutChangesNothing).
//
// An answer is made of the command's own events and of nothing else, never of
// the state they led to. That is why the answer to a repeat is the first
// answer, byte for byte, however late it comes (TestARepeatIsAnsweredAlike).
//
// The digest on the events tells a repeat from another request under the same
// key. It is keyed (HMAC): a plain hash of an address could be found by trying
// addresses (TestADigestIgnoresSpaceAndHidesTheBody).
package writeapi

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/gin-gonic/gin"

	"cartwright/commands"
	"cartwright/domain/account"
	"cartwright/domain/catalog"
	"cartwright/domain/inventory"
	"cartwright/domain/money"
	"cartwright/domain/order"
	"cartwright/domain/orderid"
	"cartwright/domain/payment"
	"cartwright/domain/personal"
	"cartwright/infra/problem"
)

// Shop is all the API needs done; *commands.Shop does it. Its methods may be
// called concurrently and wait no longer than ctx.
type Shop interface {
	Checkouts
	Payments
	Orders
	Ledgers
}

// Checkouts is what leads to an order that is paid.
type Checkouts interface {
	// DrawOrderID gives out an id; with a cause the same one for ever, and says whether it had.
	DrawOrderID(ctx context.Context, r commands.Request, buyer string) (orderid.ID, bool, error)
	Checkout(ctx context.Context, r commands.Request, c commands.Checkout) (commands.Placed, error)
	Pay(ctx context.Context, r commands.Request, checkout orderid.ID, expected *money.Money) (commands.Paid, error)
}

// Payments is money that comes by channels from outside, and goes back.
type Payments interface {
	StartPayment(ctx context.Context, r commands.Request, in commands.PaymentRequest) (commands.Asked, error)
	Notify(ctx context.Context, channel string, n commands.Notice) error
	Returns
}

// Returns are what is done about money that is not where it belongs.
type Returns interface {
	ReturnTrade(ctx context.Context, r commands.Request, id, number string) (commands.Done[payment.Event], error)
	RedirectRefund(ctx context.Context, r commands.Request, id string, c payment.RedirectRefund) (commands.Done[payment.Event], error)
	ResolveTrade(ctx context.Context, r commands.Request, channel, number, by, reason string) (commands.Resolved, error)
}

// Orders is what is done to an order.
type Orders interface {
	Order(ctx context.Context, r commands.Request, id orderid.ID, c order.Command) (commands.Done[order.Event], error)
	Cancel(ctx context.Context, r commands.Request, id orderid.ID, c order.Cancel) (commands.Done[order.Event], error)
	ChangeAddress(ctx context.Context, r commands.Request, id orderid.ID, a personal.Address) (commands.Done[order.Event], error)
	// FindOrder gives an order as it is, or refuses what is none. Asked only for what never
	// changes (its currency, a waybill of a certain version), which a command's events do not say.
	FindOrder(ctx context.Context, id orderid.ID) (order.Order, error)
}

// Ledgers are what is offered, what there is of it, and money.
type Ledgers interface {
	PublishOffer(ctx context.Context, r commands.Request, sku string, p catalog.Publish) (commands.Done[catalog.Event], error)
	Inventory(ctx context.Context, r commands.Request, sku string, c inventory.Command) (commands.Done[inventory.Event], error)
	Account(ctx context.Context, r commands.Request, id string, c account.Command) (commands.Done[account.Event], error)
}

// Config is what the routes need.
type Config struct {
	Log          *slog.Logger
	Shop         Shop
	Channels     map[string]Listener // whose callbacks are taken, by name
	DigestSecret []byte              // at least 16 bytes, and for ever: with another one, repeats of older requests are refused
	// AllowBackdating lets requests say by Cartwright-At when they happened.
	AllowBackdating bool
	Now             func() time.Time // time.Now if nil
}

// minSecret is the fewest bytes a secret has.
const minSecret = 16

type api struct {
	Config
	writings sync.Pool // of *writing
}

// Routes adds the commands to r.
func Routes(r gin.IRouter, cfg Config) error {
	if cfg.Log == nil || cfg.Shop == nil {
		return errors.New("the write API needs a log and a shop")
	}
	if len(cfg.DigestSecret) < minSecret {
		return errors.New("the write API needs a digest secret of 16 bytes or more")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	a := &api{Config: cfg}
	v1 := r.Group("/v1")
	a.catalogRoutes(v1)
	a.checkoutRoutes(v1)
	a.paymentRoutes(v1)
	a.orderRoutes(v1)
	a.inventoryRoutes(v1)
	a.accountRoutes(v1)
	return nil
}

func (a *api) catalogRoutes(r gin.IRouter) {
	r.PUT("/skus/:sku", command(a, rule{match: matchHere}, a.publish))
}

func (a *api) checkoutRoutes(r gin.IRouter) {
	r.POST("/order-ids", command(a, rule{key: keyOptional, match: matchNothing}, a.drawOrderID))
	r.POST("/checkouts", command(a, rule{key: keyRequired, match: matchNothing}, a.checkout))
	r.POST("/checkouts/:order_id/pay", command(a, rule{key: keyRequired, empty: true}, a.pay))
	r.POST("/checkouts/:order_id/payments", command(a, rule{key: keyRequired, match: matchNothing}, a.startPayment))
}

func (a *api) paymentRoutes(r gin.IRouter) {
	r.POST("/channels/:channel/callback", problem.Handler(a.Log, a.callback))
	r.POST("/channels/:channel/trades/:trade/resolve", command(a, rule{key: keyRequired, match: matchNothing}, a.resolveTrade))
	p := r.Group("/payments/:payment_id")
	p.POST("/returns", command(a, rule{key: keyRequired}, a.returnTrade))
	p.POST("/refunds/:refund/redirect", command(a, rule{key: keyRequired}, a.redirectRefund))
}

func (a *api) orderRoutes(r gin.IRouter) {
	moves := rule{key: keyRequired}
	bare := rule{key: keyRequired, empty: true}
	o := r.Group("/orders/:order_id")
	o.POST("/parcels", command(a, moves, a.pack))
	o.POST("/parcels/:parcel/unpack", command(a, bare, a.unpack))
	o.PUT("/parcels/:parcel/waybill", command(a, rule{match: matchHere}, a.waybill))
	o.POST("/parcels/:parcel/delivered", command(a, bare, a.deliver))
	o.PUT("/address", command(a, rule{}, a.changeAddress))
	o.POST("/complete", command(a, bare, a.complete))
	o.POST("/cancel", command(a, moves, a.cancel))
	o.POST("/refunds", command(a, bare, a.refund))
}

func (a *api) inventoryRoutes(r gin.IRouter) {
	moves := rule{key: keyRequired, match: matchVersion}
	s := r.Group("/inventory/:sku")
	s.POST("/receipts", command(a, moves, a.receive))
	s.POST("/adjustments", command(a, moves, a.adjust))
	s.POST("/counts", command(a, rule{key: keyRequired, match: matchRequired}, a.count))
	s.PUT("/policy", command(a, rule{match: matchVersion}, a.setPolicy))
	s.POST("/shards", command(a, moves, a.divide))
}

func (a *api) accountRoutes(r gin.IRouter) {
	moves := rule{key: keyRequired}
	r.POST("/accounts", command(a, rule{key: keyOptional, match: matchVersion}, a.openAccount))
	r.POST("/accounts/:account_id/deposits", command(a, moves, a.deposit))
	r.POST("/accounts/:account_id/withdrawals", command(a, moves, a.withdraw))
}
