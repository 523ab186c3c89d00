package commands

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"cartwright/domain"
	"cartwright/domain/catalog"
	"cartwright/domain/event"
	"cartwright/domain/inventory"
	"cartwright/domain/money"
	"cartwright/domain/order"
	"cartwright/domain/orderid"
)

// Bounds of a checkout.
const (
	maxItems    = 200
	maxQuantity = 1_000_000_000
	waitForTurn = 5 * time.Second // a repeat waits this long for the one that runs
	holdTries   = 5

	checkoutTries = 10
)

// Checkout turns a cart into orders, one for each seller, whose stock is held:
// price the cart from the offers, hold every SKU under an attempt of this run's
// own, and append the first order, which commits the whole checkout.
//
// # Why an attempt of its own
//
// A hold belongs to the run that took it. Nobody else releases it before the
// order's stream has fenced that run (order.abandoned), so a run that is slow
// and not dead can't place an order on stock that was given away meanwhile. A
// hold shared by the runs of one request was rejected: the one that is refused
// releases what the other relies on (TestARunThatIsSlowCannotPlaceOnStockThatWasGivenAway).
func (s *Shop) Checkout(ctx context.Context, r Request, c Checkout) (Placed, error) {
	if err := checkCart(c); err != nil {
		return Placed{}, err
	}
	// A cause is looked for in its order's stream. With another order's id it
	// would be another command there, so what placed what is kept in mind too.
	if id, known := s.placedBy(ctx, r.Cause); known && id != string(c.Order) {
		return Placed{}, sameBody(id, string(c.Order))
	}
	free, err := s.turn(ctx, string(c.Order))
	if err != nil {
		return Placed{}, err
	}
	defer free()
	if r.Correlation == "" {
		r.Correlation = string(c.Order)
	}
	if s.tried(r.Cause, c.Order) {
		if p, found, rerr := s.recallPlaced(ctx, r, c.Order); found || rerr != nil {
			return p, rerr
		}
	}
	p, err := s.insist(ctx, r, c)
	if sold, ok := errors.AsType[*soldOutError](err); ok {
		return Placed{}, sold.refusal // and it was not carried out before
	}
	if err == nil {
		s.remember(ctx, r.Cause, c.Order)
		return p, nil
	}
	s.failed.Set(string(c.Order), struct{}{})
	if domain.CodeOf(err) == "" || domain.CodeOf(err) == domain.Unavailable {
		return p, err
	}
	// It is refused now; but it may have been carried out before.
	if p, found, rerr := s.recallPlaced(ctx, r, c.Order); found || rerr != nil {
		return p, rerr
	}
	return Placed{}, err
}

// tried says whether this process has dealt with the checkout before: then it may
// stand, and is looked for first.
func (s *Shop) tried(cause string, id orderid.ID) bool {
	if _, placed := s.placed.GetIfPresent(cause); placed {
		return true
	}
	_, failed := s.failed.GetIfPresent(string(id))
	return failed
}

// insist runs a checkout again when the same request, running in another
// process, has fenced its attempt: one of them gets through, and the others find
// that it did (TestOneRequestSentManyTimesMakesOneOrder).
func (s *Shop) insist(ctx context.Context, r Request, c Checkout) (Placed, error) {
	for try := 1; ; try++ {
		p, err := s.checkout(ctx, r, c)
		if domain.ReasonOf(err) != "attempt_abandoned" || try == checkoutTries {
			return p, err
		}
		select {
		case <-time.After(time.Duration(try) * jitter(try)):
		case <-ctx.Done():
			return Placed{}, ctx.Err()
		}
	}
}

// turn lets one request at a time deal with a checkout.
func (s *Shop) turn(ctx context.Context, checkout string) (free func(), err error) {
	if free = s.busy.take(checkout); free != nil {
		return free, nil // as most often, and at no cost of a timer
	}
	wait, cancel := context.WithTimeout(ctx, waitForTurn)
	defer cancel()
	free, err = s.busy.lock(wait, checkout)
	if err != nil && ctx.Err() == nil {
		return nil, &domain.Error{
			Code: domain.Conflict, Reason: "in_progress", RetryAfter: time.Second,
			Detail: "Another request for this checkout is still running.",
		}
	}
	return free, err
}

// take is lock for whoever does not wait: nil if the key is somebody's.
func (k *keyedLocks) take(key string) (free func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.locks[key] != nil {
		return nil
	}
	l := &keyedLock{turn: make(chan struct{}, 1), users: 1}
	l.turn <- struct{}{}
	if k.locks == nil {
		k.locks = map[string]*keyedLock{}
	}
	k.locks[key] = l
	return func() { <-l.turn; k.leave(key, l) }
}

func checkCart(c Checkout) error {
	if err := c.Address.Check("/address"); err != nil {
		return err
	}
	if err := orderid.Check(string(c.Order), c.Buyer); err != nil {
		return err
	}
	if len(c.Items) == 0 || len(c.Items) > maxItems {
		return domain.Refuse(domain.Invalid, "wrong_item_count", "A checkout has 1 to %d items.", maxItems)
	}
	for i, item := range c.Items {
		if item.Quantity < 1 || item.Quantity > maxQuantity {
			e := domain.Refuse(domain.Invalid, "wrong_quantity", "A quantity is 1 to %d.", maxQuantity)
			e.Fields = []domain.Field{{Pointer: fmt.Sprintf("/items/%d/quantity", i), Detail: "out of range"}}
			return e
		}
	}
	return nil
}

func (s *Shop) checkout(ctx context.Context, r Request, c Checkout) (Placed, error) {
	names := skus(c.Items)
	priced, err := s.price(ctx, c, names)
	if err != nil {
		return Placed{}, err
	}
	place, err := s.split(r, c, priced)
	if err != nil {
		return Placed{}, err
	}
	if err = s.soldOut(c, names, place.Attempt); err != nil {
		return Placed{}, err
	}
	if err = s.sealer.Admit(ctx, c.Buyer); err != nil {
		return Placed{}, fmt.Errorf("ask for the key of %s: %w", c.Order, err)
	}
	held, err := s.holdAll(ctx, r, c, names, place.Attempt)
	if err != nil {
		return Placed{}, err
	}
	place = inShards(place, held)
	// Behind the holds: who gets none leaves no key of a new buyer in the log.
	if place.Address, err = s.sealer.Seal(ctx, c.Buyer, c.Address); err != nil {
		s.letGo(ctx, place.Attempt, c.Order, held)
		return Placed{}, fmt.Errorf("seal the address of %s: %w", c.Order, err)
	}
	if err = s.nameSiblings(ctx, r, place); err != nil {
		s.letGo(ctx, place.Attempt, c.Order, held)
		return Placed{}, fmt.Errorf("draw the ids of other orders of checkout %s: %w", c.Order, err)
	}
	r.completes = true
	done, err := s.orders.Create(ctx, string(c.Order), r, place)
	switch {
	case err != nil && domain.CodeOf(err) == "", domain.CodeOf(err) == domain.Unavailable:
		return Placed{}, err // it may yet stand, so its holds stay until the timer finds out
	case err != nil, done.Repeated:
		s.letGo(ctx, place.Attempt, c.Order, held)
	}
	if err != nil {
		return Placed{}, err
	}
	return s.standAll(ctx, done)
}

// placedBy is the order that a cause has placed, as far as this process has seen
// it or the register knows.
func (s *Shop) placedBy(ctx context.Context, cause string) (id string, known bool) {
	if id, known = s.placed.GetIfPresent(cause); known || s.register == nil {
		return id, known
	}
	id, known, err := s.register.Look(ctx, cause)
	return id, known && err == nil
}

// remember notes what a cause has placed. A register that is away costs nothing
// but the note.
func (s *Shop) remember(ctx context.Context, cause string, id orderid.ID) {
	if noted, known := s.placed.GetIfPresent(cause); known && noted == string(id) {
		return
	}
	s.placed.Set(cause, string(id))
	if s.register != nil {
		_ = s.register.Remember(context.WithoutCancel(ctx), cause, string(id))
	}
}

// recallPlaced answers a checkout that was carried out before.
func (s *Shop) recallPlaced(ctx context.Context, r Request, id orderid.ID) (Placed, bool, error) {
	done, found, err := s.orders.Recall(ctx, string(id), r)
	if err != nil || !found {
		return Placed{}, false, err
	}
	s.remember(ctx, r.Cause, id)
	p, err := s.standAll(ctx, done)
	return p, true, err
}

// standAll appends the other orders of a checkout whose first one stands, and answers.
func (s *Shop) standAll(ctx context.Context, done Done[order.Event]) (Placed, error) {
	placed, ok := first[order.Placed](done.Events)
	if !ok {
		return Placed{}, domain.Refuse(domain.Rejected, "idempotency_key_reused", "This key was used for another request.")
	}
	p := Placed{Orders: []order.Placed{placed}, Streams: map[string]event.Revision{done.Stream: done.Revision}, Repeated: done.Repeated}
	total := sum(placed.Lines)
	for _, sib := range placed.Siblings {
		at, err := s.placeSibling(ctx, placed, sib)
		if err != nil {
			return Placed{}, err
		}
		p.Streams[s.orders.Stream(sib.Order)] = at
		p.Orders = append(p.Orders, siblingPlaced(placed, sib))
		total += sum(sib.Lines) // checked when the checkout was split
	}
	p.Total = money.Money{Amount: total, Currency: placed.Currency}
	return p, nil
}

// placeSibling appends an order that its checkout's first order has recorded.
// Nobody else writes to its stream before, so this is safe to do again.
func (s *Shop) placeSibling(ctx context.Context, first order.Placed, sib order.Sibling) (event.Revision, error) {
	e := siblingPlaced(first, sib)
	r := Request{Cause: "sibling/" + first.Order, Correlation: first.Checkout, Actor: "checkout", At: sib.At, completes: true}
	done, err := s.orders.Create(ctx, sib.Order, r, order.Place{
		Order: e.Order, Checkout: e.Checkout, Buyer: e.Buyer, Seller: e.Seller, Currency: e.Currency,
		Lines: e.Lines, Address: e.Address, Attempt: e.Attempt, Deadline: e.Deadline,
	})
	return done.Revision, err
}

func siblingPlaced(first order.Placed, sib order.Sibling) order.Placed {
	first.Order, first.Seller, first.Lines, first.Siblings = sib.Order, sib.Seller, sib.Lines, nil
	return first
}

func sum(lines []order.Line) (total int64) {
	for _, l := range lines {
		total += l.Quantity * (l.UnitPrice + l.Freight)
	}
	return total
}

// prices are the offers of a cart's SKUs.
type prices struct {
	names  []string // in order
	offers []catalog.Offer
}

func (p prices) of(sku string) *catalog.Offer {
	i, _ := slices.BinarySearch(p.names, sku)
	return &p.offers[i]
}

// price looks every SKU's offer up, as it is now.
func (s *Shop) price(ctx context.Context, c Checkout, names []string) (prices, error) {
	p := prices{names: names, offers: make([]catalog.Offer, len(names))}
	look := func(ctx context.Context, i int) error {
		return s.offers.Look(ctx, names[i], func(o catalog.Offer, _ event.Revision) {
			p.offers[i] = catalog.Offer{Snapshot: o.Snapshot, Digest: o.Digest, OnSale: o.OnSale}
		})
	}
	if len(names) == 1 { // most carts are of one thing, and need no goroutine for it
		if err := look(ctx, 0); err != nil {
			return prices{}, err
		}
		return p, checkOffers(c, p)
	}
	g, gctx := errgroup.WithContext(ctx)
	for i := range names {
		g.Go(func() error { return look(gctx, i) })
	}
	if err := g.Wait(); err != nil {
		return prices{}, err
	}
	return p, checkOffers(c, p)
}

func checkOffers(c Checkout, priced prices) error {
	currency := priced.of(c.Items[0].SKU).Snapshot.Currency
	for i, item := range c.Items {
		var e *domain.Error
		switch o := priced.of(item.SKU); {
		case o.Digest == "":
			e = domain.Refuse(domain.NotFound, "unknown_sku", "Nothing is offered as %s.", item.SKU)
		case !o.OnSale:
			e = domain.Refuse(domain.Conflict, "not_on_sale", "%s is not on sale.", item.SKU)
		case o.Snapshot.Currency != currency:
			e = domain.Refuse(domain.Rejected, "mixed_currencies", "A checkout is in one currency.")
		default:
			continue
		}
		e.Fields = []domain.Field{{Pointer: fmt.Sprintf("/items/%d/sku", i), Detail: e.Detail}}
		return e
	}
	return nil
}

// split makes one order for each seller. The first seller's gets the id that
// was given and records the others, which get theirs when all goods are held.
func (s *Shop) split(r Request, c Checkout, priced prices) (order.Place, error) {
	var sellers []string
	var lines [][]order.Line // of each of them
	for _, item := range c.Items {
		o := priced.of(item.SKU)
		at := slices.Index(sellers, o.Snapshot.Seller)
		if at < 0 {
			at = len(sellers)
			sellers, lines = append(sellers, o.Snapshot.Seller), append(lines, nil)
		}
		lines[at] = append(lines[at], order.Line{
			Line: len(lines[at]) + 1, SKU: item.SKU, Title: o.Snapshot.Title, Offer: o.Digest,
			Quantity: item.Quantity, UnitPrice: o.Snapshot.UnitPrice, Freight: o.Snapshot.Freight,
		})
	}
	currency := priced.of(c.Items[0].SKU).Snapshot.Currency
	if err := checkTotal(c, lines, currency); err != nil {
		return order.Place{}, err
	}
	place := order.Place{
		Order: string(c.Order), Checkout: string(c.Order), Buyer: c.Buyer, Seller: sellers[0], Currency: currency,
		Lines: lines[0], Attempt: uuid.NewString(),
	}
	if r.At.IsZero() { // what an import places in the past has no deadline
		place.Deadline = s.now().Add(s.payWithin).UTC().Truncate(time.Millisecond)
	}
	for i, seller := range sellers[1:] {
		place.Siblings = append(place.Siblings, order.Sibling{Seller: seller, Lines: lines[i+1], At: r.At})
	}
	return place, nil
}

// nameSiblings draws ids that nobody else has, since what a checkout has recorded
// must be placed: each stream is free, and an event under the id says whose it is
// (TestNoTwoCheckoutsHaveOneSibling).
func (s *Shop) nameSiblings(ctx context.Context, r Request, place order.Place) error {
	g, ctx := errgroup.WithContext(ctx)
	for i := range place.Siblings {
		g.Go(func() (err error) {
			place.Siblings[i].Order, err = s.claimID(ctx, r, place)
			return err
		})
	}
	return g.Wait()
}

// claimID draws ids until one is nobody else's.
func (s *Shop) claimID(ctx context.Context, r Request, place order.Place) (string, error) {
	for {
		id, err := s.drawUnused(ctx, place)
		if err != nil {
			return "", err
		}
		book := uuid.NewSHA1(namespace, []byte("sibling/"+id)).String()
		claim := Request{Cause: "checkout/" + place.Attempt, Correlation: place.Checkout, Actor: r.Actor, completes: true}
		done, err := s.ids.Create(ctx, book, claim, orderid.Issue{Order: string(id), Buyer: place.Buyer})
		if _, mine := first[orderid.Issued](done.Events); err != nil || mine {
			return string(id), err
		}
	}
}

// drawUnused draws an id whose stream is free. Another process may have drawn the
// checkout's own id just now.
func (s *Shop) drawUnused(ctx context.Context, place order.Place) (orderid.ID, error) {
	for {
		id, err := s.draw.sibling(ctx, place.Buyer)
		if err != nil {
			return "", err
		}
		taken := string(id) == place.Order
		if !taken {
			err = s.orders.Look(ctx, string(id), func(_ order.Order, at event.Revision) { taken = at > 0 })
		}
		if err != nil || !taken {
			return id, err
		}
	}
}

func checkTotal(c Checkout, lines [][]order.Line, currency string) error {
	var total int64
	for _, some := range lines {
		var err error
		if total, err = addLines(total, some); err != nil {
			return &domain.Error{Code: domain.Invalid, Reason: "amount_overflow", Detail: "The total is too large.", Err: err}
		}
	}
	switch x := c.Expected; {
	case x == nil:
		return nil
	case x.Currency != currency:
		return domain.Refuse(domain.Rejected, "wrong_currency", "These goods are sold in %s, not in %s.", currency, x.Currency)
	case x.Amount != total:
		return domain.Refuse(domain.Conflict, "price_changed", "The total is %d now, not %d.", total, x.Amount)
	}
	return nil
}

func addLines(total int64, lines []order.Line) (int64, error) {
	for _, l := range lines {
		unit, err := money.Add(l.UnitPrice, l.Freight)
		if err == nil {
			unit, err = money.Mul(unit, l.Quantity)
		}
		if err == nil {
			total, err = money.Add(total, unit)
		}
		if err != nil {
			return 0, err
		}
	}
	return total, nil
}

// skus lists the SKUs of a cart once each, in order: two carts that want the
// same goods ask for them in the same order.
func skus(items []Item) []string {
	names := make([]string, len(items))
	for i, item := range items {
		names[i] = item.SKU
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// quantities sums what a cart wants by SKU.
func quantities(items []Item) map[string]int64 {
	want := map[string]int64{}
	for _, item := range items {
		want[item.SKU] += item.Quantity
	}
	return want
}

// holdAll holds what the cart wants, all or nothing, and says in which stocks.
func (s *Shop) holdAll(ctx context.Context, r Request, c Checkout, names []string, attempt string) (held []string, err error) {
	if len(names) == 1 {
		return s.holdOnly(ctx, r, c, names, attempt)
	}
	return s.holdEach(ctx, r, c, names, attempt)
}

// holdEach is holdAll for a cart of several things, all asked for at once.
func (s *Shop) holdEach(ctx context.Context, r Request, c Checkout, names []string, attempt string) (held []string, err error) {
	want := quantities(c.Items)
	errs, stocks := make([]error, len(names)), make([]string, len(names))
	var g errgroup.Group
	for i, sku := range names {
		g.Go(func() error {
			stocks[i], errs[i] = s.hold(ctx, r, c.Buyer, sku, inventory.Hold{Order: string(c.Order), Attempt: attempt, Quantity: want[sku]})
			return nil
		})
	}
	_ = g.Wait() // the goroutines keep their errors apart
	var refused error
	for i, sku := range names {
		if errs[i] == nil {
			held = append(held, stocks[i])
		} else if refused == nil {
			refused = refusedItem(c, sku, errs[i])
		}
	}
	if refused == nil {
		return held, nil
	}
	if ctx.Err() != nil {
		held = s.allShards(names) // some may have been taken without our hearing of it
	}
	s.letGo(ctx, attempt, c.Order, held)
	return nil, refused
}

// holdOnly is holdAll for a cart of one thing, which needs no goroutine.
func (s *Shop) holdOnly(ctx context.Context, r Request, c Checkout, names []string, attempt string) (held []string, err error) {
	h := inventory.Hold{Order: string(c.Order), Attempt: attempt}
	for _, item := range c.Items {
		h.Quantity += item.Quantity
	}
	stock, err := s.hold(ctx, r, c.Buyer, names[0], h)
	if err == nil {
		return []string{stock}, nil
	}
	if ctx.Err() != nil {
		s.letGo(ctx, attempt, c.Order, s.allShards(names)) // it may have been taken without our hearing of it
	}
	return nil, refusedItem(c, c.Items[0].SKU, err)
}

// refusedItem says which line of the cart a refusal is about.
func refusedItem(c Checkout, sku string, err error) error {
	e, ok := errors.AsType[*domain.Error](err)
	if !ok {
		return fmt.Errorf("hold %s: %w", sku, err)
	}
	told := *e
	i := slices.IndexFunc(c.Items, func(item Item) bool { return item.SKU == sku })
	told.Fields = []domain.Field{{Pointer: fmt.Sprintf("/items/%d", i), Detail: sku + ": " + e.Detail}}
	return &told
}

// holdIn takes goods of one stock. Where an earlier attempt of the same order left
// a hold behind, that attempt is fenced first.
func (s *Shop) holdIn(ctx context.Context, r Request, buyer, stock string, h inventory.Hold) error {
	for try := 0; ; try++ {
		h.Now, h.Expires = s.holdTimes()
		req := r
		req.Cause, req.IfMatch, req.Digest, req.Party = "hold/"+h.Order+"/"+h.Attempt, nil, "", buyer
		_, err := s.stock.Handle(ctx, stock, req, h)
		left, open := errors.AsType[*inventory.HoldOpenError](err)
		if !open || try == holdTries {
			return err
		}
		if err := s.fence(ctx, h.Order, left.Attempt); err != nil {
			return taken(h.Order, err)
		}
		if err := s.release(ctx, stock, inventory.Release{Order: h.Order, Attempt: left.Attempt, Reason: "abandoned"}); err != nil {
			return err
		}
	}
}

// holdTimes are the time, and when a hold of now ends.
func (s *Shop) holdTimes() (now, expires time.Time) {
	now = s.now()
	return now, now.Add(s.payWithin).UTC().Truncate(time.Millisecond)
}

// taken says what it means for a checkout that an order stands.
func taken(id string, err error) error {
	if domain.ReasonOf(err) != "order_stands" {
		return err
	}
	return &domain.Error{Code: domain.Conflict, Reason: "order_exists", Detail: "There is an order " + id + " already.", Err: err}
}

// fence makes sure that an attempt never places its order any more. It is
// refused when the order stands on that attempt.
func (s *Shop) fence(ctx context.Context, id, attempt string) error {
	r := Request{Cause: "abandon/" + attempt, Correlation: id, Actor: "checkout", completes: true}
	_, err := s.orders.Handle(ctx, id, r, order.Abandon{Attempt: attempt})
	return err
}

func (s *Shop) release(ctx context.Context, stock string, c inventory.Release) error {
	r := Request{Cause: "release/" + c.Order + "/" + c.Attempt, Correlation: c.Order, Actor: "checkout", completes: true}
	_, err := s.stock.Handle(ctx, stock, r, c)
	return err
}

// letGo releases what a run took and does not need. What can't be released now
// the timer finds when it expires.
func (s *Shop) letGo(ctx context.Context, attempt string, id orderid.ID, stocks []string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), waitForTurn)
	defer cancel()
	var g errgroup.Group
	for _, stock := range stocks {
		g.Go(func() error {
			return s.release(ctx, stock, inventory.Release{Order: string(id), Attempt: attempt, Reason: "not_placed"})
		})
	}
	_ = g.Wait()
}

// keyOf names a thing of an order for ever: "<order>/<n>".
func keyOf(id string, n int) string { return id + "/" + strconv.Itoa(n) }
