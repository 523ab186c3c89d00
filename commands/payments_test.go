package commands_test

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cartwright/commands"
	"cartwright/domain"
	"cartwright/domain/account"
	"cartwright/domain/event"
	"cartwright/domain/inventory"
	"cartwright/domain/money"
	"cartwright/domain/order"
	"cartwright/domain/orderid"
	"cartwright/domain/payment"
	"cartwright/domain/personal"
	"cartwright/domain/trade"
	"cartwright/infra/keyring"
	"cartwright/infra/memstore"
)

// A till is a shop whose buyers pay by a bank.
type till struct {
	*world
	bank   *bank
	alarms *alarms
}

const commission = 1000 // basis points

func openTill(tb testing.TB) *till {
	tb.Helper()
	w := stand(tb)
	t := &till{world: w, bank: newBank(), alarms: new(alarms)}
	t.world = t.process(w.store)
	return t
}

// process is a process of the same shop on a store.
func (t *till) process(store commands.Store) *world {
	t.tb.Helper()
	ring, err := keyring.New(store, make([]byte, personal.KeySize))
	t.must(err)
	clock := t.clock
	shop, err := commands.Open(commands.Setup{
		Store: store, Sealer: ring, Now: func() time.Time { return time.UnixMilli(clock.Add(1)) },
		Channels: map[string]commands.Channel{"bank": t.bank}, Alarm: t.alarms.raise, CompleteAfter: 24 * time.Hour, Commission: commission,
	})
	t.must(err)
	t.tb.Cleanup(shop.Close)
	return &world{Shop: shop, tb: t.tb, store: store, clock: clock}
}

// checkout places an order of two sellers: 220 from one, 210 from the other.
func (t *till) checkout() (orderid.ID, []string) {
	t.tb.Helper()
	id := t.id()
	p, err := t.Checkout(t.ctx(), named(string(id)), cart(id, commands.Item{SKU: "a", Quantity: 2}, commands.Item{SKU: "b", Quantity: 1}))
	t.must(err)
	return id, []string{p.Orders[0].Order, p.Orders[1].Order}
}

func (t *till) start(id orderid.ID) payment.Payment {
	t.tb.Helper()
	a, err := t.StartPayment(t.ctx(), named("pay/"+string(id)), commands.PaymentRequest{Checkout: id, Channel: "bank"})
	t.must(err)
	return a.Payment
}

func (t *till) payment(id string) payment.Payment {
	t.tb.Helper()
	return fold(t.world, "payment-"+id, payment.Decider)
}

// follow lets the process follow everything there is, until nothing more comes of it.
func (t *till) follow() {
	t.tb.Helper()
	store, ok := t.store.(*memstore.Store)
	if !ok {
		t.tb.Fatalf("follow on a %T", t.store)
	}
	var done uint64
	for {
		head, err := store.Head(t.ctx())
		t.must(err)
		if head == done {
			return
		}
		done = head
		for r, err := range store.All(t.ctx(), 0) {
			t.must(err)
			t.must(t.React(t.ctx(), r))
		}
	}
}

// balances checks accounts by id, and that all accounts together are nought.
func (t *till) balances(want map[string]int64) {
	t.tb.Helper()
	for id, balance := range want {
		t.wantMoney(id, balance, 0)
	}
	t.sound()
}

// sound checks that all accounts together are nought, and that every journal has two legs.
func (t *till) sound() {
	t.tb.Helper()
	store, ok := t.store.(*memstore.Store)
	if !ok {
		t.tb.Fatalf("%T", t.store)
	}
	events, err := commands.Events()
	t.must(err)
	var sum int64
	journals, legs := map[string]int64{}, map[string]int{}
	for r, err := range store.All(t.ctx(), 0, "account-") {
		t.must(err)
		e, err := event.Decode[account.Event](events, r)
		t.must(err)
		if entry, ok := account.EntryOf(e); ok {
			sum += entry.Amount
			journals[entry.Journal] += entry.Amount
			legs[entry.Journal]++
		}
	}
	for journal, total := range journals {
		if total != 0 || legs[journal] != 2 {
			t.tb.Fatalf("journal %s has %d legs and sums to %d", journal, legs[journal], total)
		}
	}
	if sum != 0 {
		t.tb.Fatalf("all accounts together have %d", sum)
	}
}

const (
	escrow     = "platform.escrow.BRL"
	suspense   = "platform.suspense.BRL"
	feeAccount = "platform.fee.BRL"
	clearing   = "platform.clearing.bank.BRL"
)

func TestAPaymentPaysEveryOrderOfItsCheckout(t *testing.T) {
	w := openTill(t)
	id, orders := w.checkout()
	p := w.start(id)
	if p.ID != string(id)+"-1" || p.Amount != 430 || len(p.Splits) != 2 || p.Reference != "ref-"+p.ID || p.Status != payment.StatusPending {
		t.Fatalf("got %+v", p)
	}
	notice := w.bank.pay(p.ID, 430, "BRL")
	for range 3 {
		w.must(w.Notify(w.ctx(), "bank", notice))
	}
	w.follow()
	for _, o := range orders {
		if got := w.order(o); got.Status != order.StatusPaid || got.PaymentID != p.ID || got.Method != "bank" || !got.StockCommitted || !got.PaymentCaptured {
			t.Errorf("got %+v", got)
		}
	}
	if got := w.payment(p.ID); !got.Applied || len(got.Trades) != 1 || !got.Trades[0].Posted {
		t.Errorf("got %+v", got)
	}
	w.wantStock("a", 10, 0, 2)
	w.balances(map[string]int64{buyer: 10_000, escrow: 430, clearing: -430, "platform.cash.BRL": -10_000})
	if got := w.alarms.kinds(); got != "[]" {
		t.Errorf("alarms %s", got)
	}
}

func TestARepeatedRequestStartsOnePayment(t *testing.T) {
	w := openTill(t)
	id, _ := w.checkout()
	in := commands.PaymentRequest{Checkout: id, Channel: "bank"}
	first, err := w.StartPayment(w.ctx(), named("k"), in)
	w.must(err)
	again, err := w.process(w.store).StartPayment(w.ctx(), named("k"), in)
	w.must(err)
	if again.Payment.ID != first.Payment.ID || !again.Repeated || string(again.Payment.Instruction) != string(first.Payment.Instruction) {
		t.Errorf("got %+v, then %+v", first, again)
	}
	other, err := w.StartPayment(w.ctx(), named("l"), in)
	w.must(err)
	if other.Payment.ID != string(id)+"-2" {
		t.Errorf("another key gives %s", other.Payment.ID)
	}
	w.must(w.Notify(w.ctx(), "bank", w.bank.pay(first.Payment.ID, 430, "BRL")))
	w.follow()
	if _, err = w.StartPayment(w.ctx(), named("m"), in); domain.ReasonOf(err) != "already_paid" {
		t.Errorf("a paid checkout: %v", err)
	}
	late, err := w.StartPayment(w.ctx(), named("l"), in)
	w.must(err)
	if late.Payment.ID != other.Payment.ID || !late.Repeated {
		t.Errorf("a repeat after that gives %+v", late)
	}
}

func TestWhatCannotBePaidByAChannel(t *testing.T) {
	w := openTill(t)
	id, _ := w.checkout()
	for name, tt := range map[string]struct {
		in     commands.PaymentRequest
		reason string
	}{
		"no such channel":   {commands.PaymentRequest{Checkout: id, Channel: "paypal"}, "unknown_channel"},
		"no such checkout":  {commands.PaymentRequest{Checkout: w.id(), Channel: "bank"}, "unknown_order"},
		"another amount":    {commands.PaymentRequest{Checkout: id, Channel: "bank", Expected: &money.Money{Amount: 1, Currency: "BRL"}}, "wrong_amount"},
		"a wordy option":    {commands.PaymentRequest{Checkout: id, Channel: "bank", Options: map[string]string{"a": strings.Repeat("b", 501)}}, "invalid_text"},
		"another order's":   {commands.PaymentRequest{Checkout: orderid.ID(w.order(string(id)).Siblings[0].Order), Channel: "bank"}, "unknown_checkout"},
		"too many wishes":   {commands.PaymentRequest{Checkout: id, Channel: "bank", Options: many(21)}, "too_many_options"},
		"an account, by it": {commands.PaymentRequest{Checkout: id, Channel: "balance"}, "unknown_channel"},
	} {
		if _, err := w.StartPayment(w.ctx(), named(name), tt.in); domain.ReasonOf(err) != tt.reason {
			t.Errorf("%s: %v", name, err)
		}
	}
	for i := range 20 {
		_, err := w.StartPayment(w.ctx(), named(fmt.Sprint("try", i)), commands.PaymentRequest{Checkout: id, Channel: "bank"})
		w.must(err)
	}
	if _, err := w.StartPayment(w.ctx(), named("once more"), commands.PaymentRequest{Checkout: id, Channel: "bank"}); domain.ReasonOf(err) != "too_many_payments" {
		t.Errorf("the 21st: %v", err)
	}
}

func many(n int) map[string]string {
	all := map[string]string{}
	for i := range n {
		all[strconv.Itoa(i)] = ""
	}
	return all
}

func TestAChannelThatIsAwayOrRefusesIsNoPayment(t *testing.T) {
	w := openTill(t)
	id, _ := w.checkout()
	in := commands.PaymentRequest{Checkout: id, Channel: "bank"}
	w.bank.away = func() error { return errAway }
	if _, err := w.StartPayment(w.ctx(), named("k"), in); domain.CodeOf(err) != domain.Unavailable {
		t.Fatalf("got %v", err)
	}
	w.bank.away = nil
	got, err := w.StartPayment(w.ctx(), named("k"), in)
	w.must(err)
	if got.Payment.ID != string(id)+"-1" || got.Payment.Status != payment.StatusPending {
		t.Errorf("the same request later: %+v", got)
	}
	w.bank.closed = true
	for range 2 {
		if _, err := w.StartPayment(w.ctx(), named("l"), in); domain.ReasonOf(err) != "channel_refused" {
			t.Errorf("got %v", err)
		}
	}
	if p := w.payment(string(id) + "-2"); p.Status != payment.StatusFailed || p.Failure != "The bank takes no payments today." {
		t.Errorf("got %+v", p)
	}
}

func TestAThousandCallbacksAreOneCapture(t *testing.T) {
	w := openTill(t)
	other := w.process(w.store)
	id, orders := w.checkout()
	p := w.start(id)
	notice := w.bank.pay(p.ID, 430, "BRL")
	var wg sync.WaitGroup
	for i := range 1000 {
		wg.Go(func() {
			shop := []*world{w.world, other}[i%2]
			if err := shop.Notify(w.ctx(), "bank", notice); err != nil {
				t.Error(err)
			}
			if i%10 == 0 {
				_ = shop.SettlePayment(w.ctx(), p.ID) // some give up on the others
			}
		})
	}
	wg.Wait()
	w.follow()
	if got := w.payment(p.ID); len(got.Trades) != 1 || got.Captured != 430 {
		t.Errorf("got %+v", got)
	}
	if w.order(orders[0]).Status != order.StatusPaid {
		t.Error("it is not paid")
	}
	w.balances(map[string]int64{escrow: 430, clearing: -430})
}

func TestNoCallbackLosesMoney(t *testing.T) {
	for name, tt := range map[string]struct {
		tell     func(w *till, id string) commands.Notice
		alarm    string
		suspense int64
	}{
		"the wrong amount": {func(w *till, id string) commands.Notice { return w.bank.pay(id, 429, "BRL") }, "[payment_wrong_amount]", 429},
		"the wrong currency": {
			func(w *till, id string) commands.Notice { return w.bank.pay(id, 430, "CNY") }, "[payment_wrong_currency]", 0,
		},
		"nobody's": {func(w *till, _ string) commands.Notice { return w.bank.pay("0000-9", 77, "BRL") }, "[orphaned_payment]", 77},
		"no name":  {func(w *till, _ string) commands.Notice { return w.bank.pay("a b", 77, "BRL") }, "[orphaned_payment]", 77},
	} {
		t.Run(name, func(t *testing.T) {
			w := openTill(t)
			id, orders := w.checkout()
			p := w.start(id)
			notice := tt.tell(w, p.ID)
			for range 3 {
				w.must(w.Notify(w.ctx(), "bank", notice))
			}
			w.follow()
			if got := w.alarms.kinds(); got != tt.alarm {
				t.Errorf("alarms %s", got)
			}
			if w.order(orders[0]).Status != order.StatusPending {
				t.Error("it is paid")
			}
			if tt.suspense > 0 {
				w.balances(map[string]int64{suspense: tt.suspense, clearing: -tt.suspense})
			} else {
				w.balances(map[string]int64{"platform.suspense.CNY": 430, "platform.clearing.bank.CNY": -430})
			}
			for range 2 {
				_, err := w.ResolveTrade(w.ctx(), named("resolve"), "bank", notice.Trade, "ops", "given back at the bank")
				w.must(err)
				w.follow()
			}
			w.balances(map[string]int64{suspense: 0, clearing: 0, "platform.suspense.CNY": 0, "platform.clearing.bank.CNY": 0})
			if _, err := w.ResolveTrade(w.ctx(), named("again"), "bank", notice.Trade, "ops", "given back twice"); domain.ReasonOf(err) != "already_returned" {
				t.Errorf("resolved twice: %v", err)
			}
			if _, err := w.ResolveTrade(w.ctx(), named("no"), "bank", "trade-77", "ops", "x"); domain.ReasonOf(err) != "unknown_trade" {
				t.Errorf("a trade that nobody told of: %v", err)
			}
		})
	}
}

func TestATradeIsForOnePaymentForEver(t *testing.T) {
	w := openTill(t)
	id, _ := w.checkout()
	other, _ := w.checkout()
	p, q := w.start(id), w.start(other)
	notice := w.bank.pay(p.ID, 430, "BRL")
	w.must(w.Notify(w.ctx(), "bank", notice))
	notice.Payment = q.ID
	w.must(w.Notify(w.ctx(), "bank", notice))
	notice.Payment, notice.Money.Amount = p.ID, 431
	w.must(w.Notify(w.ctx(), "bank", notice))
	w.follow()
	if got := w.payment(q.ID); len(got.Trades) != 0 || got.Status != payment.StatusPending {
		t.Errorf("the other one has %+v", got)
	}
	if got := fold(w.world, "trade-"+trade.ID("bank", notice.Trade), trade.Decider); got.Differed != 2 || got.Payment != p.ID {
		t.Errorf("the trade says %+v", got)
	}
	if got := w.alarms.kinds(); got != "[trade_differs trade_differs]" {
		t.Errorf("alarms %s", got)
	}
	w.balances(map[string]int64{escrow: 430, clearing: -430})
}

func TestMoneyForACancelledOrderGoesBack(t *testing.T) {
	w := openTill(t)
	id, orders := w.checkout()
	p := w.start(id)
	_, err := w.Cancel(w.ctx(), named("c"), orderid.ID(orders[1]), order.Cancel{Cancellation: order.Cancellation{Reason: order.ByBuyer, By: "b"}})
	w.must(err)
	w.must(w.Notify(w.ctx(), "bank", w.bank.pay(p.ID, 430, "BRL")))
	w.follow()
	if w.order(orders[0]).Status != order.StatusPaid || w.order(orders[1]).Status != order.StatusCancelled {
		t.Error("the orders stand otherwise")
	}
	if got := w.payment(p.ID); len(got.Refunds) != 1 || got.Refunds[0].Amount != 210 || !got.Refunds[0].Posted {
		t.Errorf("got %+v", got)
	}
	w.balances(map[string]int64{escrow: 220, clearing: -220})
	if w.bank.out() != 220 {
		t.Errorf("the bank has %d", w.bank.out())
	}
}

func TestACheckoutThatIsPaidTwiceIsPaidOnce(t *testing.T) {
	w := openTill(t)
	id, orders := w.checkout()
	p := w.start(id)
	second, err := w.StartPayment(w.ctx(), named("second"), commands.PaymentRequest{Checkout: id, Channel: "bank"})
	w.must(err)
	w.must(w.Notify(w.ctx(), "bank", w.bank.pay(second.Payment.ID, 430, "BRL")))
	w.must(w.Notify(w.ctx(), "bank", w.bank.pay(p.ID, 430, "BRL")))
	w.follow()
	if got := w.order(orders[0]); got.PaymentID == "" || got.Status != order.StatusPaid {
		t.Errorf("got %+v", got)
	}
	w.balances(map[string]int64{escrow: 430, clearing: -430})
	if w.bank.out() != 430 {
		t.Errorf("the bank has %d", w.bank.out())
	}
	again, _ := w.checkout()
	third := w.start(again)
	_, err = w.Pay(w.ctx(), named("balance"), again, nil)
	w.must(err)
	w.must(w.Notify(w.ctx(), "bank", w.bank.pay(third.ID, 430, "BRL")))
	w.follow()
	w.balances(map[string]int64{buyer: 10_000 - 430, escrow: 860, clearing: -430})
}

func TestMoneyThatComesTwiceForOnePaymentIsKeptAndGivenBackByWord(t *testing.T) {
	w := openTill(t)
	id, _ := w.checkout()
	p := w.start(id)
	w.must(w.Notify(w.ctx(), "bank", w.bank.pay(p.ID, 430, "BRL")))
	twice := w.bank.pay(p.ID, 430, "BRL")
	w.must(w.Notify(w.ctx(), "bank", twice))
	w.follow()
	w.balances(map[string]int64{escrow: 430, suspense: 430, clearing: -860})
	if got := w.alarms.kinds(); got != "[payment_paid_twice]" {
		t.Errorf("alarms %s", got)
	}
	for range 2 {
		_, err := w.ReturnTrade(w.ctx(), named("back"), p.ID, twice.Trade)
		w.must(err)
	}
	w.follow()
	w.balances(map[string]int64{escrow: 430, suspense: 0, clearing: -430})
	if _, err := w.ReturnTrade(w.ctx(), named("another"), p.ID, "trade-1"); domain.ReasonOf(err) != "unknown_trade" {
		t.Errorf("what was asked for is returned: %v", err)
	}
}

func TestGoodsThatAreGoneAreHeldAgainOrPaidBack(t *testing.T) {
	for _, there := range []bool{true, false} {
		t.Run(strconv.FormatBool(there), func(t *testing.T) {
			w := openTill(t)
			id, orders := w.checkout()
			p := w.start(id)
			_, err := w.Inventory(w.ctx(), named("lost"), "a", inventory.Release{Order: string(id), Attempt: w.order(string(id)).Attempt, Reason: "test"})
			w.must(err)
			if !there {
				_, err = w.Inventory(w.ctx(), named("gone"), "a", inventory.Adjust{OnHand: -9, Reason: "broken"})
				w.must(err)
			}
			w.must(w.Notify(w.ctx(), "bank", w.bank.pay(p.ID, 430, "BRL")))
			w.follow()
			first, second := w.order(orders[0]), w.order(orders[1])
			if there {
				if first.Status != order.StatusPaid || second.Status != order.StatusPaid {
					t.Errorf("%s and %s", first.Status, second.Status)
				}
				w.wantStock("a", 10, 0, 2)
				w.balances(map[string]int64{escrow: 430, clearing: -430})
				return
			}
			if first.Status != order.StatusCancelled || first.Cancellation.Reason != order.Stock || second.Status != order.StatusPaid {
				t.Errorf("%s and %s", first.Status, second.Status)
			}
			w.wantStock("a", 1, 0, 0)
			w.balances(map[string]int64{escrow: 210, clearing: -210})
		})
	}
}

func TestAPaymentThatNobodyTellsOfIsAskedFor(t *testing.T) {
	w := openTill(t)
	id, orders := w.checkout()
	p := w.start(id)
	w.bank.pay(p.ID, 430, "BRL") // and no callback comes
	w.pass(2 * time.Minute)
	w.fire()
	w.follow()
	if w.order(orders[0]).Status != order.StatusPaid {
		t.Error("it is not paid")
	}
	w.balances(map[string]int64{escrow: 430, clearing: -430})
}

func TestAPaymentThatNobodyMakesIsClosedAndExpires(t *testing.T) {
	w := openTill(t)
	id, orders := w.checkout()
	p := w.start(id)
	w.pass(29 * time.Minute)
	w.fire()
	if got := w.payment(p.ID).Status; got != payment.StatusPending {
		t.Fatalf("before its time it is %s", got)
	}
	w.pass(2 * time.Minute)
	w.fire()
	w.follow()
	if got := w.payment(p.ID).Status; got != payment.StatusExpired || !w.bank.payments[p.ID].closed {
		t.Errorf("it is %s", got)
	}
	if w.order(orders[0]).Status != order.StatusCancelled {
		t.Error("its order waits")
	}
	w.must(w.Notify(w.ctx(), "bank", w.bank.pay(p.ID, 430, "BRL"))) // the bank took it all the same
	w.follow()
	w.balances(map[string]int64{escrow: 0, clearing: 0})
	if w.bank.out() != 0 {
		t.Errorf("the bank keeps %d", w.bank.out())
	}
}

func TestAPaymentThatIsMadeAsItIsClosedCounts(t *testing.T) {
	w := openTill(t)
	id, orders := w.checkout()
	p := w.start(id)
	w.bank.pay(p.ID, 430, "BRL")
	w.pass(31 * time.Minute)
	w.fire() // closes the payment and cancels the order, in whatever order
	w.follow()
	if w.payment(p.ID).Status != payment.StatusCaptured {
		t.Error("the money was lost")
	}
	want := map[string]int64{escrow: 0, clearing: 0}
	if w.order(orders[0]).Status == order.StatusPaid {
		want = map[string]int64{escrow: 430, clearing: -430}
	}
	w.balances(want)
}

func (t *till) paidAndShipped() (orderid.ID, payment.Payment) {
	t.tb.Helper()
	id, _ := t.checkout()
	p := t.start(id)
	t.must(t.Notify(t.ctx(), "bank", t.bank.pay(p.ID, 430, "BRL")))
	t.follow()
	for _, c := range []order.Command{
		order.Pack{Lines: []order.Part{{Line: 1, Quantity: 2}}, Carrier: "C", Number: "1"}, order.Deliver{Parcel: 1},
	} {
		_, err := t.Order(t.ctx(), named(fmt.Sprintf("%T/%s", c, id)), id, c)
		t.must(err)
	}
	return id, p
}

func TestADeliveredOrderCompletesByItselfAndItsSellerIsPaid(t *testing.T) {
	w := openTill(t)
	id, _ := w.paidAndShipped()
	w.pass(23 * time.Hour)
	w.fire()
	if got := w.order(string(id)).Status; got != order.StatusShipped {
		t.Fatalf("before its time it is %s", got)
	}
	w.pass(2 * time.Hour)
	w.fire()
	w.follow()
	o := w.order(string(id))
	if o.Status != order.StatusCompleted || o.CompletedBy != "timer" || o.Settlement == nil || !o.Settlement.Posted {
		t.Fatalf("got %+v", o)
	}
	w.balances(map[string]int64{escrow: 210, account.Seller("seller-1", "BRL"): 198, feeAccount: 22, clearing: -430})
}

func TestARefundAfterTheSettlementIsTheSellers(t *testing.T) {
	w := openTill(t)
	id, _ := w.paidAndShipped()
	_, err := w.Order(w.ctx(), named("done"), id, order.Complete{By: "b"})
	w.must(err)
	w.follow()
	seller := account.Seller("seller-1", "BRL")
	_, err = w.Account(w.ctx(), named("out"), seller, account.Withdraw{Amount: 150, Currency: "BRL", Journal: "out"})
	w.must(err)
	_, err = w.Order(w.ctx(), named("back"), id, order.Refund{By: "b"})
	w.must(err)
	w.follow()
	w.balances(map[string]int64{escrow: 210, seller: -150, feeAccount: 0, clearing: -210, "platform.cash.BRL": -10_000 + 150})
	if o := w.order(string(id)); !o.Refunds[0].Settled || o.Payment() != order.FullyRefunded {
		t.Errorf("got %+v", o)
	}
	if w.bank.out() != 210 {
		t.Errorf("the bank has %d", w.bank.out())
	}
}

func TestARefundThatTakesItsTimeIsWaitedFor(t *testing.T) {
	w := openTill(t)
	id, _ := w.paidAndShipped()
	w.bank.slow = true
	_, err := w.Order(w.ctx(), named("back"), id, order.Refund{By: "b", Lines: []order.RefundRequest{{Line: 1, Quantity: 1}}})
	w.must(err)
	w.follow()
	if o := w.order(string(id)); o.Refunds[0].Settled {
		t.Fatal("it is back before the bank says so")
	}
	w.balances(map[string]int64{escrow: 430, clearing: -430})
	w.bank.slow = false
	w.pass(time.Hour)
	w.fire()
	w.follow()
	if o := w.order(string(id)); !o.Refunds[0].Settled {
		t.Error("it is not back")
	}
	w.balances(map[string]int64{escrow: 320, clearing: -320})
}

func TestARefundThatIsRefusedIsSentElsewhere(t *testing.T) {
	w := openTill(t)
	id, p := w.paidAndShipped()
	w.bank.refuses = true
	_, err := w.Order(w.ctx(), named("back"), id, order.Refund{By: "b", Lines: []order.RefundRequest{{Line: 1, Quantity: 1}}})
	w.must(err)
	w.follow()
	if got := w.alarms.kinds(); got != "[refund_refused]" {
		t.Errorf("alarms %s", got)
	}
	key := string(id) + ".1"
	for i := range 2 { // the channel again, and it refuses again
		_, err = w.RedirectRefund(w.ctx(), named(fmt.Sprint("again", i)), p.ID, payment.RedirectRefund{Refund: key, To: payment.ToChannel})
		w.must(err)
		w.follow()
	}
	if r, _ := w.payment(p.ID).Refund(key); r.Status != payment.RefundIsRefused || r.Sent != 2 {
		t.Fatalf("got %+v", r)
	}
	_, err = w.RedirectRefund(w.ctx(), named("home"), p.ID, payment.RedirectRefund{Refund: key, To: payment.ToBalance})
	w.must(err)
	w.follow()
	w.balances(map[string]int64{buyer: 10_110, escrow: 320, clearing: -430})
	w.must(w.Notify(w.ctx(), "bank", commands.Notice{Kind: commands.NoticeRefunded, Payment: p.ID, Refund: key, Money: money.Money{Amount: 110, Currency: "BRL"}}))
	w.follow()
	w.balances(map[string]int64{buyer: 10_110, escrow: 320, clearing: -430})
	if got := w.alarms.kinds(); !strings.HasSuffix(got, "unexpected_refund]") {
		t.Errorf("money that goes back twice alarms nobody: %s", got)
	}
}

func TestRefundsAskedForAtOnceNeverExceedWhatWasPaid(t *testing.T) {
	w := openTill(t)
	other := w.process(w.store)
	id, _ := w.paidAndShipped()
	var given atomic.Int64
	var wg sync.WaitGroup
	for i := range 60 {
		wg.Go(func() {
			amount := int64(1 + i)
			_, err := []*world{w.world, other}[i%2].Order(w.ctx(), named(fmt.Sprint("r", i)), id, order.Refund{
				By: "b", Lines: []order.RefundRequest{{Line: 1, Amount: &amount}},
			})
			switch {
			case err == nil:
				given.Add(amount)
			case domain.ReasonOf(err) != "over_refund" && domain.ReasonOf(err) != "order_refunded":
				t.Error(err)
			}
		})
	}
	wg.Wait()
	w.follow()
	if given.Load() > 220 || w.order(string(id)).RefundedAmount() != given.Load() {
		t.Fatalf("%d of 220 went back", given.Load())
	}
	w.balances(map[string]int64{escrow: 430 - given.Load(), clearing: -430 + given.Load()})
}

func TestEveryCrashAroundAPaymentEndsRight(t *testing.T) {
	for _, after := range []bool{false, true} {
		for n := 1; ; n++ {
			w := openTill(t)
			id, orders := w.checkout()
			_, err := w.Cancel(w.ctx(), named("c"), orderid.ID(orders[1]), order.Cancel{Cancellation: order.Cancellation{Reason: order.ByBuyer, By: "b"}})
			w.must(err)
			live := w.world
			story := func(ctx context.Context, shop *world) error {
				a, err := shop.StartPayment(ctx, named("k"), commands.PaymentRequest{Checkout: id, Channel: "bank"})
				if err != nil {
					return err
				}
				notice := w.bank.pay(a.Payment.ID, 220, "BRL")
				if w.bank.trades > 1 { // the buyer paid once
					w.bank.trades--
					w.bank.payments[a.Payment.ID].took -= 220
					notice.Trade, notice.At = "trade-1", time.UnixMilli(1)
					w.bank.payments[a.Payment.ID].trade, w.bank.payments[a.Payment.ID].at = notice.Trade, notice.At
				}
				if err := shop.Notify(ctx, "bank", notice); err != nil {
					return err
				}
				if err := shop.SettlePayment(ctx, a.Payment.ID); err != nil {
					return err
				}
				if err := shop.Settle(ctx, string(id)); err != nil {
					return err
				}
				if _, err := shop.Order(ctx, named("back"), id, order.Refund{By: "b"}); err != nil {
					return err
				}
				if err := shop.Settle(ctx, string(id)); err != nil {
					return err
				}
				return shop.SettlePayment(ctx, a.Payment.ID)
			}
			ctx, died := context.WithCancel(w.ctx())
			c := &crashing{Store: w.store, after: after, died: died}
			c.left.Store(int64(n))
			doomed := w.process(c)
			finished := story(ctx, doomed) == nil
			died()
			doomed.Close()
			w.world = live
			w.must(story(w.ctx(), live))
			w.follow()
			w.balances(map[string]int64{escrow: 0, clearing: 0, buyer: 10_000})
			w.wantStock("a", 10, 0, 0)
			w.wantStock("b", 10, 0, 0)
			if got := w.order(string(id)); got.Status != order.StatusRefunded || !got.Refunds[0].Settled || w.bank.out() != 0 {
				t.Fatalf("after append %d, heard of or not (%v): %+v", n, after, got)
			}
			if finished {
				break
			}
		}
	}
}

func TestWhatCannotBeDoneIsParkedAndTriedAgain(t *testing.T) {
	w := openTill(t)
	id, _ := w.checkout()
	_, err := w.Pay(w.ctx(), named("p"), id, nil)
	w.must(err)
	_, err = w.Inventory(w.ctx(), named("lost"), "a", inventory.Release{Order: string(id), Attempt: w.order(string(id)).Attempt, Reason: "test"})
	w.must(err)
	stuckAt := w.Settle(w.ctx(), string(id))
	if stuckAt == nil || commands.Passes(stuckAt) {
		t.Fatalf("got %v", stuckAt)
	}
	stream := "order-" + string(id)
	w.must(w.Park(w.ctx(), event.Recorded{Stream: stream, Name: "order.paid"}, stuckAt.Error(), 10))
	other := w.process(w.store)
	waiting, err := other.Stuck(w.ctx())
	w.must(err)
	if e := waiting[stream]; len(waiting) != 1 || e.Event != "order.paid" || e.Tries != 10 || e.Reason != stuckAt.Error() {
		t.Fatalf("got %+v", waiting)
	}
	if other.Retry(w.ctx(), stream, "ops") == nil {
		t.Fatal("it went through")
	}
	_, err = w.Inventory(w.ctx(), named("found"), "a", inventory.Hold{
		Order: string(id), Attempt: "again", Quantity: 2, Now: time.UnixMilli(w.clock.Load()), Expires: time.UnixMilli(w.clock.Load()).Add(time.Hour),
	})
	w.must(err)
	w.must(other.Retry(w.ctx(), stream, "ops"))
	if waiting, err = w.Stuck(w.ctx()); err != nil || len(waiting) != 0 {
		t.Errorf("%v: %v", err, waiting)
	}
	if !w.order(string(id)).StockCommitted {
		t.Error("it is not done")
	}
	w.must(w.Park(w.ctx(), event.Recorded{Stream: "payment-x", Name: "payment.captured"}, "no", 1))
	w.must(w.DropStuck(w.ctx(), "payment-x", "ops", "a test"))
	if err := w.DropStuck(w.ctx(), "payment-x", "ops", "a test"); domain.ReasonOf(err) != "not_parked" {
		t.Errorf("dropped twice: %v", err)
	}
	if err := w.Retry(w.ctx(), "offer-a", "ops"); domain.ReasonOf(err) != "nothing_to_retry" {
		t.Errorf("got %v", err)
	}
}

func TestADepositThatWasPassedOverIsPostedByARetry(t *testing.T) {
	w := openTill(t)
	w.must(w.Retry(w.ctx(), "account-"+buyer, "ops"))
	w.must(w.Retry(w.ctx(), "account-"+buyer, "ops"))
	w.follow()
	w.balances(map[string]int64{buyer: 10_000, "platform.cash.BRL": -10_000})
	if got := w.account(buyer).Unposted; len(got) != 0 {
		t.Errorf("%v wait for their other leg", got)
	}
}

func TestAShopKnowsWhatItsSettingsMayBe(t *testing.T) {
	w := openTill(t)
	for name, s := range map[string]commands.Setup{
		"more than all":       {Commission: 10_001},
		"less than nothing":   {Commission: -1},
		"a channel of no one": {Channels: map[string]commands.Channel{"bank": nil}},
		"an ill-named one":    {Channels: map[string]commands.Channel{"The Bank": w.bank}},
		"the balance":         {Channels: map[string]commands.Channel{"balance": w.bank}},
	} {
		ring, err := keyring.New(w.store, make([]byte, personal.KeySize))
		w.must(err)
		s.Store, s.Sealer = w.store, ring
		if shop, err := commands.Open(s); err == nil {
			shop.Close()
			t.Errorf("%s: it opened", name)
		}
	}
}

func TestARefundThatIsSentAgainHasAnotherKeyThere(t *testing.T) {
	w := openTill(t)
	id, p := w.paidAndShipped()
	w.bank.refuses = true
	_, err := w.Order(w.ctx(), named("back"), id, order.Refund{By: "b", Lines: []order.RefundRequest{{Line: 1, Quantity: 1}}})
	w.must(err)
	w.follow()
	w.bank.refuses, w.bank.slow = false, true
	key := string(id) + ".1"
	_, err = w.RedirectRefund(w.ctx(), named("again"), p.ID, payment.RedirectRefund{Refund: key, To: payment.ToChannel})
	w.must(err)
	w.follow()
	if w.bank.refunds[key] != nil || w.bank.refunds[key+".s1"] == nil {
		t.Fatalf("the bank knows %v", w.bank.refunds)
	}
	tell := func(kind commands.NoticeKind, refund string) {
		w.must(w.Notify(w.ctx(), "bank", commands.Notice{Kind: kind, Payment: p.ID, Refund: refund, Money: money.Money{Amount: 110, Currency: "BRL"}}))
		w.follow()
	}
	tell(commands.NoticeRefundFailed, key) // of the first one, late
	if r, _ := w.payment(p.ID).Refund(key); r.Status != payment.RefundIsProcessing {
		t.Errorf("late word of the first one makes it %s", r.Status)
	}
	tell(commands.NoticeRefunded, key)
	if r, _ := w.payment(p.ID).Refund(key); r.Status != payment.RefundIsProcessing || !strings.HasSuffix(w.alarms.kinds(), "unexpected_refund]") {
		t.Errorf("%s, alarms %s", r.Status, w.alarms.kinds())
	}
	tell(commands.NoticeRefunded, key+".s1")
	if r, _ := w.payment(p.ID).Refund(key); r.Status != payment.RefundIsDone || !r.Posted {
		t.Errorf("got %+v", r)
	}
	w.balances(map[string]int64{escrow: 320, clearing: -320})
}

// dueAt says of one stream that it is due, since when it is told.
type dueAt struct {
	stream string
	at     time.Time
}

func (d *dueAt) Due(_ context.Context, _ time.Time, after *commands.Due, _ int) ([]commands.Due, error) {
	if after != nil {
		return nil, nil
	}
	return []commands.Due{{Stream: d.stream, At: d.at}}, nil
}

func TestAStreamThatIsDueForAnotherReasonIsNotKeptWaiting(t *testing.T) {
	w := openTill(t)
	id, _ := w.checkout()
	p := w.start(id)
	w.bank.pay(p.ID, 430, "BRL")
	at := time.UnixMilli(w.clock.Load())
	view := &dueAt{"payment-" + p.ID, at}
	timers := commands.Timers{Shop: w.Shop, Deadlines: view, Log: slog.New(slog.DiscardHandler)}
	w.must(timers.Fire(w.ctx())) // the payment is found
	w.follow()
	w.bank.slow = true
	_, err := w.Order(w.ctx(), named("back"), id, order.Refund{By: "b"})
	w.must(err)
	w.follow()
	w.bank.slow = false
	w.must(timers.Fire(w.ctx()))
	if r := w.payment(p.ID).Refunds[0]; r.Status != payment.RefundIsProcessing {
		t.Fatalf("looked at again for no reason: %+v", r)
	}
	view.at = at.Add(time.Millisecond)
	w.must(timers.Fire(w.ctx()))
	if r := w.payment(p.ID).Refunds[0]; r.Status != payment.RefundIsDone {
		t.Errorf("it is due anew, and waits: %+v", r)
	}
}

// counting counts appends by stream.
type counting struct {
	commands.Store
	mu      sync.Mutex
	appends map[string]int
}

func (c *counting) Append(ctx context.Context, stream string, after event.Revision, events []event.Recorded) error {
	c.mu.Lock()
	c.appends[stream]++
	c.mu.Unlock()
	return c.Store.Append(ctx, stream, after, events)
}

func TestABalancePaymentIsTwoAppendsOfTheBuyersAndOneAnOrder(t *testing.T) {
	w := openTill(t)
	id, orders := w.checkout()
	c := &counting{Store: w.store, appends: map[string]int{}}
	shop := w.process(c)
	_, err := shop.Pay(w.ctx(), named("p"), id, nil)
	w.must(err)
	paid := c.appends["account-"+buyer]
	for _, o := range orders {
		if got := c.appends["order-"+o]; got != 1 {
			t.Errorf("%d appends to order %s", got, o)
		}
		w.must(shop.Settle(w.ctx(), o))
	}
	// Each order's money is captured by itself, since each is a journal of its own.
	if settled := c.appends["account-"+buyer] - paid; paid != 1 || settled != len(orders) {
		t.Errorf("%d appends to the buyer's account to pay, %d to settle %d orders", paid, settled, len(orders))
	}
}

func TestACallbackIsTwoAppends(t *testing.T) {
	w := openTill(t)
	id, _ := w.checkout()
	p := w.start(id)
	c := &counting{Store: w.store, appends: map[string]int{}}
	w.must(w.process(c).Notify(w.ctx(), "bank", w.bank.pay(p.ID, 430, "BRL")))
	if got := c.appends; len(got) != 2 || got["payment-"+p.ID] != 1 {
		t.Errorf("appended to %v", got)
	}
}

func TestARefundThatWaitsHoldsUpNoOther(t *testing.T) {
	w := openTill(t)
	id, p := w.paidAndShipped()
	back := func(name string) {
		_, err := w.Order(w.ctx(), named(name), id, order.Refund{By: "b", Lines: []order.RefundRequest{{Line: 1, Quantity: 1}}})
		w.must(err)
	}
	w.bank.refuses = true
	back("first")
	w.follow()
	w.bank.refuses = false
	back("second")
	w.follow()
	o := w.order(string(id))
	if o.Refunds[0].Settled || !o.Refunds[1].Settled {
		t.Fatalf("got %+v", o.Refunds)
	}
	w.balances(map[string]int64{escrow: 320, clearing: -320})

	// Nor does one of which the bank says nothing, not even to what goes elsewhere.
	_, err := w.RedirectRefund(w.ctx(), named("home"), p.ID, payment.RedirectRefund{Refund: string(id) + ".1", To: payment.ToBalance})
	w.must(err)
	_, err = w.Order(w.ctx(), named("third"), orderid.ID(w.order(string(id)).Siblings[0].Order), order.Refund{By: "b"})
	w.must(err)
	w.bank.away = func() error { return errAway }
	w.must(w.Settle(w.ctx(), w.order(string(id)).Siblings[0].Order))
	if err = w.SettlePayment(w.ctx(), p.ID); domain.CodeOf(err) != domain.Unavailable {
		t.Errorf("got %v", err)
	}
	if r, _ := w.payment(p.ID).Refund(string(id) + ".1"); !r.Posted {
		t.Errorf("it waits for another one: %+v", r)
	}
}

func TestWhatCannotBeReadDoesNotPass(t *testing.T) {
	w := openTill(t)
	for _, r := range []event.Recorded{
		{Stream: "account-" + buyer, Name: "account.deposited", Version: 9, Data: []byte(`{}`)},
		{Stream: "payment-1-1", Name: "payment.refund_posted", Version: 1, Data: []byte(`[]`)},
	} {
		if err := w.React(w.ctx(), r); err == nil || commands.Passes(err) {
			t.Errorf("%s: %v", r.Name, err)
		}
	}
}

func TestGoodsThatWereHeldAgainAreNotSweptFromUnderAPaidOrder(t *testing.T) {
	w := openTill(t)
	id, orders := w.checkout()
	p := w.start(id)
	_, err := w.Inventory(w.ctx(), named("lost"), "b", inventory.Release{Order: string(id), Attempt: w.order(string(id)).Attempt, Reason: "test"})
	w.must(err)
	w.must(w.Notify(w.ctx(), "bank", w.bank.pay(p.ID, 430, "BRL")))
	w.must(w.SettlePayment(w.ctx(), p.ID)) // pays the orders, and then this process is down for long
	if w.order(orders[1]).Status != order.StatusPaid {
		t.Fatal("it is not paid")
	}
	w.pass(time.Hour)
	w.fire()
	w.follow()
	if o := w.order(orders[1]); !o.StockCommitted {
		t.Error("its goods were given away")
	}
	w.wantStock("b", 10, 0, 1)
}
