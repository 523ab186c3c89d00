package reconcile_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cartwright/commands/reconcile"
	"cartwright/domain/account"
	"cartwright/domain/event"
	"cartwright/domain/inventory"
	"cartwright/domain/order"
	"cartwright/domain/payment"
	"cartwright/domain/trade"
)

func TestASoundShopGivesNoFindings(t *testing.T) {
	for name, live := range map[string]func(h *history, id string){
		"nothing":                  func(*history, string) {},
		"a pending order":          func(h *history, id string) { h.fund(); h.place(id) },
		"paid from a balance":      (*history).paid,
		"completed":                (*history).completed,
		"returned after that":      (*history).claimedBack,
		"a payment asked for":      func(h *history, id string) { h.create(id) },
		"paid through a bank":      func(h *history, id string) { h.channelled(id) },
		"paid too late, and twice": func(h *history, id string) { h.late(id) },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHistory(t)
			live(h, orderID(t, 0))
			got := h.audit(reconcile.Config{})
			if !got.Sound() || len(got.UnderWay) != 0 {
				t.Fatalf("got %+v, under way %+v", got.Findings, got.UnderWay)
			}
		})
	}
}

const (
	balanced = iota
	completed
	claimedBack
	channelled
	late
)

func (h *history) live(life int, id string) {
	h.tb.Helper()
	switch life {
	case balanced:
		h.paid(id)
	case completed:
		h.completed(id)
	case claimedBack:
		h.claimedBack(id)
	case channelled:
		h.channelled(id)
	case late:
		h.late(id)
	}
}

// Steps that belong together, since none is possible without those before it.
const (
	allOfBack   = "payback, paid back, back out, back in, back posted"
	allOfLate   = "late, paid back, back out, back in, back posted"
	allOfReturn = "give back, given back, given out, given in, given posted"
)

func TestEveryFaultHasItsFinding(t *testing.T) {
	for _, tt := range []struct {
		life  int
		skip  string
		want  string
		retry string // with O for the order and P for its payment
	}{
		{balanced, "bank", "[journal_half]", "account-buyer-1"},
		{balanced, "bank, posted", "[journal_half]", "account-buyer-1"},
		{balanced, "posted", "[account_unfinished]", "account-buyer-1"},
		{balanced, "capture in", "[journal_half]", "order-O"},
		{balanced, "capture in, captured", "[journal_half order_unfinished]", "order-O"},
		{balanced, "capture out", "[journal_half]", "order-O"},
		{balanced, "capture out, capture in", "[journal_missing]", "order-O"},
		{balanced, "capture out, capture in, captured", "[order_unfinished]", "order-O"},
		{balanced, "captured", "[order_unfinished]", "order-O"},
		{balanced, "commit", "[stock_phase]", "order-O"},
		{balanced, "committed", "[order_unfinished]", "order-O"},
		{balanced, "commit, committed", "[order_unfinished]", "order-O"},
		{balanced, "hold, commit", "[stock_differs]", "order-O"},
		{completed, "deallocate", "[stock_differs]", ""},
		{completed, "refund out", "[journal_half]", "order-O"},
		{completed, "refund in", "[journal_half]", "order-O"},
		{completed, "refund out, refund in", "[journal_missing]", "order-O"},
		{completed, "refund out, refund in, refunded", "[order_unfinished]", "order-O"},
		{completed, "ship", "[stock_differs]", ""},
		{completed, "shipped", "[order_unfinished]", "order-O"},
		{completed, "settle out, settle in", "[journal_missing]", "order-O"},
		{completed, "settle in", "[journal_half]", "order-O"},
		{completed, "commission out", "[journal_half]", "order-O"},
		{completed, "settled", "[order_unfinished]", "order-O"},
		{completed, "settle, settle out, settle in, commission out, commission in, settled", "[order_unfinished]", "order-O"},
		{completed, "settle, settled", "[journal_unexpected×2 order_unfinished]", "order-O"},
		{claimedBack, "clawback out, clawback in", "[journal_missing]", "order-O"},
		{claimedBack, "uncommission in", "[journal_half]", "order-O"},
		{claimedBack, "return out, return in", "[journal_missing]", "order-O"},
		{channelled, "capture seen", "[trade_unseen]", ""},
		{channelled, "trade out, trade in", "[journal_missing]", "payment-P"},
		{channelled, "trade in", "[journal_half]", "payment-P"},
		{channelled, "trade out, trade in, trade posted", "[payment_unfinished]", "payment-P"},
		{channelled, "applied", "[payment_unfinished]", "payment-P"},
		{channelled, allOfBack, "[refund_missing]", "order-O"},
		{channelled, allOfBack + ", refunded", "[order_unfinished]", "order-O"},
		{channelled, "back out, back in", "[journal_missing]", "payment-P"},
		{channelled, "back posted", "[payment_unfinished]", "payment-P"},
		{channelled, "refunded", "[order_unfinished]", "order-O"},
		{channelled, "paid back, back out, back in, back posted, refunded", "[payment_unfinished]", "payment-P"},
		{late, allOfLate, "[share_missing]", "payment-P"},
		{late, allOfLate + ", applied", "[payment_unfinished]", "payment-P"},
		{late, "released", "[order_unfinished]", "order-O"},
		{late, "release, released", "[order_unfinished]", "order-O"},
		{late, allOfReturn, "[mismatch_waits]", ""},
		{late, "again out, again in, " + allOfReturn, "[journal_missing mismatch_waits]", "payment-P"},
	} {
		t.Run(tt.skip, func(t *testing.T) {
			id := orderID(t, 0)
			h := newHistory(t)
			h.paid(orderID(t, 9)) // so that there is money in escrow
			h.skip = strings.Split(tt.skip, ", ")
			if tt.life == balanced {
				h = newHistory(t, h.skip...)
			}
			h.live(tt.life, id)
			got := h.audit(reconcile.Config{Now: began.Add(2 * time.Minute)})
			if kinds(got.Findings) != tt.want {
				t.Errorf("got %s, want %s: %+v", kinds(got.Findings), tt.want, got.Findings)
			}
			want := strings.NewReplacer("O", id, "P", id+"-1").Replace(tt.retry)
			if retry := strings.Join(got.Retries(), " "); retry != want && tt.retry != "" {
				t.Errorf("retries %s, want %s", retry, want)
			}
		})
	}
}

// What is done to a sound shop that nobody decided.
func TestWhatNobodyDecidedIsFound(t *testing.T) {
	debit := func(h *history, id, journal, to, currency string, amount int64) {
		h.account("", id, account.Debit{Account: id, Currency: currency, Amount: amount, Journal: journal, To: to, Reason: "r"})
	}
	credit := func(h *history, id, journal, from, currency string, amount int64) {
		h.account("", id, account.Credit{Account: id, Currency: currency, Amount: amount, Journal: journal, From: from, Reason: "r"})
	}
	pay := payment.Receive{Channel: "bank", Trade: "t-9", Currency: "BRL", Amount: 440}
	see := trade.See{Channel: "bank", Trade: "t-9", Payment: "p", Currency: "BRL", Amount: 440, At: began}
	for _, tt := range []struct {
		name string
		life int
		skip string
		do   func(h *history, id, p string)
		want string
	}{
		{"a journal out of nothing", balanced, "", func(h *history, _, _ string) { h.move("x", "x", escrow, fee, 7) }, "[journal_unexpected]"},
		{"one leg out of nothing", balanced, "", func(h *history, _, _ string) { credit(h, fee, "x", escrow, "BRL", 7) }, "[journal_half]"},
		{"a deposit under a journal that another account had", balanced, "", func(h *history, _, _ string) {
			h.account("", "buyer-2", account.Open{Account: "buyer-2", Currency: "BRL"})
			h.account("", "buyer-2", account.Deposit{Amount: 10_000, Currency: "BRL", Journal: "fund"})
			h.account("", "buyer-2", account.RecordPosted{Entry: 1})
		}, "[journal_half]"},
		{"a journal of three legs", balanced, "capture in", func(h *history, id, _ string) {
			credit(h, escrow, "capture-"+id, buyer, "BRL", 400)
			credit(h, fee, "capture-"+id, buyer, "BRL", 40)
		}, "[journal_unbalanced]"},
		{"legs of two amounts", balanced, "capture in", func(h *history, id, _ string) { credit(h, escrow, "capture-"+id, buyer, "BRL", 439) }, "[journal_unbalanced]"},
		{"legs of two currencies", balanced, "capture in", func(h *history, id, _ string) {
			credit(h, account.Escrow("USD"), "capture-"+id, buyer, "USD", 440)
		}, "[journal_currencies]"},
		{"a leg that names another account", balanced, "capture in", func(h *history, id, _ string) {
			credit(h, escrow, "capture-"+id, seller, "BRL", 440)
		}, "[journal_parties]"},
		{"money that went elsewhere", completed, "settle out, settle in", func(h *history, id, _ string) {
			h.move("", "settle-"+id, escrow, "seller.s-2.BRL", 297)
		}, "[journal_differs]"},
		{"less than was decided", completed, "settle out, settle in", func(h *history, id, _ string) {
			debit(h, escrow, "settle-"+id, seller, "BRL", 296)
			credit(h, seller, "settle-"+id, escrow, "BRL", 296)
		}, "[journal_differs]"},
		{"an order that a payment paid which never came", channelled, "", func(h *history, _, _ string) {
			other := orderID(h.tb, 7)
			h.place(other)
			h.order("", other, order.Pay{Amount: 440, Currency: "BRL", Method: "bank", Payment: "nobody"})
			h.stock("", "a", inventory.Commit{Order: other})
			h.order("", other, order.RecordStockCommitted{})
			h.order("", other, order.RecordPaymentCaptured{})
		}, "[order_without_payment]"},
		{"a share that pays its order and goes back", channelled, allOfBack + ", refund, deallocate, refunded", func(h *history, id, p string) {
			h.payment("", p, payment.RequestRefund{Refund: p + "." + id, Order: id, Amount: 440, Look: began})
			h.payment("", p, payment.RecordRefund{Refund: p + "." + id, By: payment.ToChannel, Status: payment.RefundIsDone})
			h.move("", "back-"+p+"."+p+"."+id, escrow, clearing, 440)
			h.payment("", p, payment.RecordRefundPosted{Refund: p + "." + id})
		}, "[refund_unexpected]"},
		{"a share of which only some goes back", late, allOfLate, func(h *history, id, p string) {
			h.payment("", p, payment.RequestRefund{Refund: p + "." + id, Order: id, Amount: 400, Look: began})
			h.payment("", p, payment.RecordRefund{Refund: p + "." + id, By: payment.ToChannel, Status: payment.RefundIsDone})
			h.move("", "back-"+p+"."+p+"."+id, escrow, clearing, 400)
			h.payment("", p, payment.RecordRefundPosted{Refund: p + "." + id})
		}, "[share_differs]"},
		{"a refund that no order wants", channelled, "", func(h *history, id, p string) {
			h.payment("", p, payment.RequestRefund{Refund: id + ".2", Order: id, Amount: 1, Look: began})
			h.payment("", p, payment.RecordRefund{Refund: id + ".2", By: payment.ToChannel, Status: payment.RefundIsDone})
			h.move("", "back-"+p+"."+id+".2", escrow, clearing, 1)
			h.payment("", p, payment.RecordRefundPosted{Refund: id + ".2"})
		}, "[refund_unexpected]"},
		{"a refund of another amount", channelled, allOfBack, func(h *history, id, p string) {
			h.payment("", p, payment.RequestRefund{Refund: id + ".1", Order: id, Amount: 100, Look: began})
			h.payment("", p, payment.RecordRefund{Refund: id + ".1", By: payment.ToChannel, Status: payment.RefundIsDone})
			h.move("", "back-"+p+"."+id+".1", escrow, clearing, 100)
			h.payment("", p, payment.RecordRefundPosted{Refund: id + ".1"})
		}, "[refund_differs]"},
		{"a trade of nobody's that nobody set aside", channelled, "", func(h *history, _, _ string) { h.trade("", "bank", "t-9", see) }, "[trade_unclaimed]"},
		{"a trade set aside that is not in the ledger", channelled, "", func(h *history, _, _ string) {
			h.trade("", "bank", "t-9", see)
			h.trade("", "bank", "t-9", trade.Orphan{Reason: "unknown_payment"})
		}, "[trade_unfinished]"},
		{"an orphan that was given back and still stands", channelled, "", func(h *history, _, _ string) {
			h.trade("", "bank", "t-9", see)
			h.trade("", "bank", "t-9", trade.Orphan{Reason: "unknown_payment"})
			h.move("", journalOf("t-9"), clearing, suspense, 440)
			h.trade("", "bank", "t-9", trade.RecordPosted{})
			h.trade("", "bank", "t-9", trade.Resolve{By: "ops", Reason: "given back"})
		}, "[trade_unfinished]"},
		{"a mismatch that was given back and still stands", channelled, "", func(h *history, _, p string) {
			h.trade("", "bank", "t-9", trade.See{Channel: "bank", Trade: "t-9", Payment: p, Currency: "BRL", Amount: 440, At: began})
			h.payment("", p, pay)
			h.move("", journalOf("t-9"), clearing, suspense, 440)
			h.payment("", p, payment.RecordPosted{Trade: "t-9"})
			h.payment("", p, payment.ResolveTrade{Trade: "t-9", By: "ops", Reason: "given back"})
			h.move("", "un"+journalOf("t-9"), suspense, clearing, 440)
		}, "[payment_unfinished]"},
		{"a trade told for another payment", channelled, "", func(h *history, _, p string) {
			h.trade("", "bank", "t-9", see)
			h.payment("", p, pay)
			h.move("", journalOf("t-9"), clearing, suspense, 440)
			h.payment("", p, payment.RecordPosted{Trade: "t-9"})
		}, "[mismatch_waits trade_differs]"},
		{"a trade that two payments have", channelled, "", func(h *history, id, _ string) {
			h.payment("", id+"-2", payment.Create{
				Payment: id + "-2", Checkout: id, Buyer: buyer, Channel: "bank", Currency: "BRL", Amount: 440,
				Splits: []payment.Split{{Order: id, Seller: "s-1", Amount: 440}}, Expires: began.Add(time.Hour),
			})
			h.payment("", id+"-2", payment.Receive{Channel: "bank", Trade: "t-1", Currency: "BRL", Amount: 440})
			h.payment("", id+"-2", payment.RecordPosted{Trade: "t-1"})
			h.payment("", id+"-2", payment.RequestRefund{Refund: id + "-2." + id, Order: id, Amount: 440, Look: began})
			h.payment("", id+"-2", payment.RecordApplied{})
			h.payment("", id+"-2", payment.RecordRefund{Refund: id + "-2." + id, By: payment.ToChannel, Status: payment.RefundIsDone})
			h.payment("", id+"-2", payment.RecordRefundPosted{Refund: id + "-2." + id})
			h.move("", "back-"+id+"-2."+id+"-2."+id, escrow, clearing, 440)
		}, "[journal_missing trade_unseen]"},
		{"an orphan that a payment has", channelled, "", func(h *history, _, p string) {
			h.trade("", "bank", "t-9", see)
			h.trade("", "bank", "t-9", trade.Orphan{Reason: "unknown_payment"})
			h.trade("", "bank", "t-9", trade.RecordPosted{})
			h.move("", journalOf("t-9"), clearing, suspense, 440)
			h.payment("", p, pay)
			h.payment("", p, payment.RecordPosted{Trade: "t-9"})
		}, "[journal_missing mismatch_waits trade_twice]"},
		{"money on hold for no order", balanced, "", func(h *history, _, _ string) {
			h.account("", buyer, account.Hold{Checkout: "c", Currency: "BRL", Claims: []account.Claim{{Order: "nobody", Amount: 5}}, Expires: began})
		}, "[hold_stranded]"},
		{"money on hold for an order that a bank has paid", channelled, "", func(h *history, id, _ string) {
			h.fund()
			h.account("", buyer, account.Hold{Checkout: id, Currency: "BRL", Claims: []account.Claim{{Order: id, Amount: 440}}, Expires: began})
		}, "[hold_stranded]"},
		{"less on hold than the order costs", balanced, "", func(h *history, _, _ string) {
			other := orderID(h.tb, 7)
			h.place(other)
			h.account("", buyer, account.Hold{Checkout: other, Currency: "BRL", Claims: []account.Claim{{Order: other, Amount: 5}}, Expires: began})
		}, "[hold_differs]"},
		{"stock for no order", balanced, "", func(h *history, _, _ string) {
			h.stock("", "a", inventory.Hold{Order: orderID(h.tb, 7), Attempt: "x", Quantity: 2, Now: began, Expires: began})
		}, "[reservation_stranded]"},
		{"stock allocated to no order", balanced, "", func(h *history, _, _ string) {
			other := orderID(h.tb, 7)
			h.stock("", "a", inventory.Hold{Order: other, Attempt: "x", Quantity: 2, Now: began, Expires: began.Add(time.Hour)})
			h.stock("", "a", inventory.Commit{Order: other})
		}, "[reservation_stranded]"},
		{"a sibling that does not stand", balanced, "", func(h *history, _, _ string) {
			other := orderID(h.tb, 7)
			line := order.Line{Line: 1, SKU: "b", Quantity: 1}
			h.stock("", "b", inventory.Receive{Quantity: 1})
			h.stock("", "b", inventory.Hold{Order: other, Attempt: "x", Quantity: 1, Now: began, Expires: began.Add(time.Hour)})
			h.order("", other, order.Place{
				Order: other, Checkout: other, Buyer: buyer, Seller: "s-1", Currency: "BRL", Attempt: "x", Lines: []order.Line{line},
				Siblings: []order.Sibling{{Order: orderID(h.tb, 8), Seller: "s-2", Lines: []order.Line{line}}},
			})
		}, "[order_missing]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			id := orderID(t, 0)
			h := newHistory(t)
			h.paid(orderID(t, 9)) // so that there is money in escrow
			h.skip = strings.Split(tt.skip, ", ")
			if tt.life == balanced {
				h = newHistory(t, h.skip...)
			}
			h.live(tt.life, id)
			h.skip = nil
			tt.do(h, id, id+"-1")
			got := h.audit(reconcile.Config{Now: began.Add(2 * time.Minute)})
			if kinds(got.Findings) != tt.want {
				t.Errorf("got %s, want %s: %+v", kinds(got.Findings), tt.want, got.Findings)
			}
		})
	}
}

func TestAFindingSaysWhatItIsAbout(t *testing.T) {
	id := orderID(t, 0)
	h := newHistory(t, "settle in", "deallocate")
	h.completed(id)
	got := h.audit(reconcile.Config{}).Findings
	want := []reconcile.Finding{
		{
			Kind: reconcile.JournalHalf, Order: id, Account: seller, Journal: "settle-" + id,
			Expected: &reconcile.Sum{Amount: 297, Currency: "BRL"}, Actual: &reconcile.Sum{Amount: 297, Currency: "BRL"},
			Text:  "One leg of two is there: -297 BRL in platform.escrow.BRL from or to seller.s-1.BRL; decided is 297 BRL from platform.escrow.BRL to seller.s-1.BRL.",
			Retry: []string{"order-" + id},
		},
		{
			Kind: reconcile.StockDiffers, Order: id, SKU: "a", Expected: &reconcile.Sum{}, Actual: &reconcile.Sum{Amount: 1},
			Text: "Units are allocated for the checkout, and by its orders none should be.",
		},
	}
	if diff := cmp.Diff(want, got, cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".At" }, cmp.Ignore())); diff != "" {
		t.Errorf("-want +got: %s", diff)
	}
}

func TestWhatWaitsForAPersonIsADifference(t *testing.T) {
	id := orderID(t, 0)
	for name, tt := range map[string]struct {
		do   func(h *history) reconcile.Finding
		want reconcile.Kind
	}{
		"money twice": {func(h *history) reconcile.Finding {
			h.skip = strings.Split(allOfReturn, ", ")
			return reconcile.Finding{Payment: h.late(id), Trade: "t-2", Actual: &reconcile.Sum{Amount: 440, Currency: "BRL"}}
		}, reconcile.MismatchWaits},
		"money for nobody": {func(h *history) reconcile.Finding {
			h.trade("", "bank", "t-1", trade.See{Channel: "bank", Trade: "t-1", Payment: "p", Currency: "BRL", Amount: 440, At: began})
			h.trade("", "bank", "t-1", trade.Orphan{Reason: "unknown_payment"})
			h.move("", journalOf("t-1"), clearing, suspense, 440)
			h.trade("", "bank", "t-1", trade.RecordPosted{})
			return reconcile.Finding{Payment: "p", Trade: "t-1", Stream: "trade-" + trade.ID("bank", "t-1"), Expected: &reconcile.Sum{Amount: 440, Currency: "BRL"}}
		}, reconcile.OrphanWaits},
		"a refund that is refused": {func(h *history) reconcile.Finding {
			h.skip = []string{"paid back", "back out", "back in", "back posted", "refunded"}
			p := h.channelled(id)
			h.payment("", p, payment.RecordRefund{Refund: id + ".1", By: payment.ToChannel, Status: payment.RefundIsRefused, Reason: "no"})
			return reconcile.Finding{Payment: p, Order: id, Refund: id + ".1", Expected: &reconcile.Sum{Amount: 110, Currency: "BRL"}}
		}, reconcile.RefundRefused},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHistory(t)
			want := tt.do(h)
			got := h.audit(reconcile.Config{})
			if len(got.Findings) != 1 || got.Sound() {
				t.Fatalf("got %+v", got.Findings)
			}
			f := got.Findings[0]
			if f.Text == "" || f.At.IsZero() {
				t.Errorf("got %+v", f)
			}
			want.Kind, want.Attention, want.Text, want.At = tt.want, true, f.Text, f.At
			if diff := cmp.Diff(want, f); diff != "" {
				t.Errorf("-want +got: %s", diff)
			}
		})
	}
}

func TestWhatWasGivenBackOutsideIsNoDifference(t *testing.T) {
	h := newHistory(t)
	h.trade("", "bank", "t-1", trade.See{Channel: "bank", Trade: "t-1", Payment: "p", Currency: "BRL", Amount: 440, At: began})
	h.trade("", "bank", "t-1", trade.Orphan{Reason: "unknown_payment"})
	h.move("", journalOf("t-1"), clearing, suspense, 440)
	h.trade("", "bank", "t-1", trade.RecordPosted{})
	h.trade("", "bank", "t-1", trade.Resolve{By: "ops", Reason: "given back"})
	h.move("", "un"+journalOf("t-1"), suspense, clearing, 440)
	h.trade("", "bank", "t-1", trade.RecordCleared{})
	if got := h.audit(reconcile.Config{}); len(got.Findings) > 0 || !got.Sound() {
		t.Errorf("got %+v", got.Findings)
	}
}

func TestWhatIsUnderWayIsNoDifference(t *testing.T) {
	id := orderID(t, 0)
	h := newHistory(t, "capture in", "captured")
	h.paid(id)
	last := h.log[len(h.log)-1].Created
	for name, tt := range map[string]struct {
		cfg  reconcile.Config
		late bool // somebody writes much later
		want string
	}{
		"no grace":                        {reconcile.Config{}, false, "[journal_half order_unfinished] []"},
		"let alone for less than a grace": {reconcile.Config{Grace: time.Minute}, false, "[] [journal_half order_unfinished]"},
		"somebody has written since":      {reconcile.Config{Grace: 50 * time.Millisecond}, true, "[journal_half order_unfinished] []"},
		"time has passed since":           {reconcile.Config{Grace: time.Minute, Now: last.Add(time.Minute)}, false, "[journal_half order_unfinished] []"},
		"not quite enough time":           {reconcile.Config{Grace: time.Minute, Now: last.Add(time.Minute - 2*time.Second)}, false, "[] [journal_half order_unfinished]"},
	} {
		t.Run(name, func(t *testing.T) {
			log := slices.Clone(h.log)
			if tt.late {
				r, err := h.events.Encode(inventory.Received{Quantity: 1})
				if err != nil {
					t.Fatal(err)
				}
				r.Stream, r.Revision, r.Position, r.Created = "inventory-z", 1, uint64(len(log))+1, last.Add(time.Second)
				log = append(log, r)
			}
			got := auditOf(t, tt.cfg, h.events, log).Report()
			if s := kinds(got.Findings) + " " + kinds(got.UnderWay); s != tt.want {
				t.Errorf("got %s, want %s", s, tt.want)
			}
		})
	}
}

func TestAChannelMayTakeItsTimeWithARefund(t *testing.T) {
	id := orderID(t, 0)
	h := newHistory(t, "paid back", "back out", "back in", "back posted", "refunded")
	p := h.channelled(id)
	h.payment("", p, payment.RecordRefund{Refund: id + ".1", By: payment.ToChannel, Status: payment.RefundIsProcessing})
	got := h.audit(reconcile.Config{Grace: time.Minute, Now: began.Add(48 * time.Hour)})
	if !got.Sound() || kinds(got.UnderWay) != "[refund_processing]" {
		t.Errorf("got %+v, under way %+v", got.Findings, got.UnderWay)
	}
}

func TestWhatIsOverdueIsFound(t *testing.T) {
	h := newHistory(t)
	h.create(orderID(t, 0))
	h.fund()
	h.account("", buyer, account.Hold{
		Checkout: "c", Currency: "BRL", Claims: []account.Claim{{Order: "nobody", Amount: 5}}, Expires: began.Add(30 * time.Minute),
	})
	h.stock("", "a", inventory.Hold{Order: orderID(t, 7), Attempt: "x", Quantity: 2, Now: began, Expires: began.Add(30 * time.Minute)})
	got := h.audit(reconcile.Config{Grace: time.Minute, Now: began.Add(30 * time.Minute)})
	if !got.Sound() || kinds(got.UnderWay) != "[hold_stranded reservation_stranded]" {
		t.Errorf("in time: %+v, under way %+v", got.Findings, got.UnderWay)
	}
	got = h.audit(reconcile.Config{Grace: time.Minute, Now: began.Add(32 * time.Minute)})
	if kinds(got.Findings) != "[hold_stranded order_overdue payment_overdue reservation_stranded]" || len(got.UnderWay) != 0 {
		t.Errorf("later: %+v, under way %+v", got.Findings, got.UnderWay)
	}
}

func TestABrokenHistoryIsAFinding(t *testing.T) {
	id := orderID(t, 0)
	sound := newHistory(t)
	sound.claimedBack(id)
	sound.channelled(orderID(t, 1))
	find := func(name string) int {
		return slices.IndexFunc(sound.log, func(r event.Recorded) bool { return r.Name == name })
	}
	for name, tt := range map[string]struct {
		spoil  func(log []event.Recorded) []event.Recorded
		stream string
		want   string
	}{
		"an event that nobody knows": {func(log []event.Recorded) []event.Recorded {
			log[find("order.completed")].Name = "order.forgotten"
			return log
		}, "order-" + id, ""}, // what came of it stands in the ledger, and is listed too
		"an event of a later version": {func(log []event.Recorded) []event.Recorded {
			log[find("payment.asked")].Version = 99
			return log
		}, "payment-" + orderID(t, 1) + "-1", "[history]"},
		"an event that is no JSON": {func(log []event.Recorded) []event.Recorded {
			log[find("inventory.committed")].Data = json.RawMessage("{")
			return log
		}, "inventory-a", "[history]"},
		"an event of another aggregate": {func(log []event.Recorded) []event.Recorded {
			r := log[find("order.stock_committed")]
			at := find("account.posted")
			log[at].Name, log[at].Data = r.Name, r.Data
			return log
		}, "account-" + buyer, "[history]"},
		"an event that is lost": {func(log []event.Recorded) []event.Recorded {
			at := find("order.stock_committed")
			return slices.Delete(log, at, at+1)
		}, "order-" + id, "[history]"},
		"an event that is there twice": {func(log []event.Recorded) []event.Recorded {
			return append(log, log[find("order.stock_committed")])
		}, "order-" + id, "[history]"},
	} {
		t.Run(name, func(t *testing.T) {
			log := slices.Clone(sound.log)
			log = tt.spoil(log)
			for i := range log {
				log[i].Position = uint64(i) + 1
			}
			got := auditOf(t, reconcile.Config{}, sound.events, log).Report()
			i := slices.IndexFunc(got.Findings, func(f reconcile.Finding) bool { return f.Kind == reconcile.History })
			if i < 0 || got.Findings[i].Stream != tt.stream {
				t.Fatalf("got %+v", got.Findings)
			}
			if tt.want != "" && kinds(got.Findings) != tt.want {
				t.Errorf("got %s, want %s: %+v", kinds(got.Findings), tt.want, got.Findings)
			}
		})
	}
}

func TestAContradictionOfTheChannelIsCounted(t *testing.T) {
	id := orderID(t, 0)
	h := newHistory(t)
	h.channelled(id)
	h.trade("", "bank", "t-1", trade.See{Channel: "bank", Trade: "t-1", Payment: "p", Currency: "BRL", Amount: 1, At: began})
	h.trade("", "bank", "t-2", trade.See{Channel: "bank", Trade: "t-2", Payment: "p", Currency: "BRL", Amount: 1, At: began})
	h.trade("", "bank", "t-2", trade.See{Channel: "bank", Trade: "t-2", Payment: "q", Currency: "BRL", Amount: 1, At: began})
	got := h.audit(reconcile.Config{})
	if got.Trades != 2 || got.Contradicted != 2 || kinds(got.Findings) != "[trade_unclaimed]" {
		t.Errorf("got %+v", got)
	}
	h.add("trade-"+trade.ID("bank", "t-1"), trade.Orphaned{Reason: "r"})
	if got = h.audit(reconcile.Config{}); kinds(got.Findings) != "[history trade_unclaimed]" {
		t.Errorf("a claimed trade is made an orphan: %+v", got.Findings)
	}
}

func TestTotalsAreByCurrencyAndKind(t *testing.T) {
	h := newHistory(t)
	h.claimedBack(orderID(t, 0))
	h.channelled(orderID(t, 1))
	got := h.audit(reconcile.Config{})
	want := []reconcile.Total{{
		Currency: "BRL", Paid: 880, Refunded: 330, Settled: 330, Commission: 33, Captured: 440, Returned: 110,
		Accounts: []reconcile.AccountTotal{
			{Kind: "buyers", Accounts: 1, Balance: 9780, Expected: 9780},
			{Kind: "cash", Accounts: 1, Balance: -10_000, Expected: -10_000},
			{Kind: "clearing bank", Accounts: 1, Balance: -330, Expected: -330},
			{Kind: "escrow", Accounts: 1, Balance: 330, Expected: 330},
			{Kind: "fee", Accounts: 1, Balance: 22, Expected: 22},
			{Kind: "sellers", Accounts: 1, Balance: 198, Expected: 198},
		},
	}}
	if diff := cmp.Diff(want, got.Totals); diff != "" {
		t.Errorf("-want +got: %s", diff)
	}
	if got.Orders["completed"] != 1 || got.Orders["paid"] != 1 || got.Payments["captured"] != 1 || got.Accounts != 6 || got.SKUs != 1 {
		t.Errorf("got %+v", got)
	}
}

func TestEventsComeInTheOrderOfTheLog(t *testing.T) {
	h := newHistory(t)
	h.fund()
	a := auditOf(t, reconcile.Config{}, h.events, h.log)
	if err := a.Add(h.log[1]); err == nil {
		t.Error("an event came again")
	}
}

func TestGoodsBetweenShardsAreAccountedFor(t *testing.T) {
	steps := []func(h *history){
		func(h *history) { h.stock("", "a", inventory.Receive{Quantity: 10}) },
		func(h *history) { h.stock("", "a", inventory.Divide{Shards: 2}) },
		func(h *history) { h.stock("out", "a", inventory.TransferOut{To: 1, Transfer: 1, Quantity: 4}) },
		func(h *history) { h.stock("in", "a~1", inventory.TransferIn{From: 0, Transfer: 1, Quantity: 4}) },
		func(h *history) { h.stock("settled", "a", inventory.TransferSettle{To: 1, Transfer: 1}) },
	}
	for _, tt := range []struct {
		done int
		skip string
		want []reconcile.Finding
	}{
		{5, "none", []reconcile.Finding{}},
		{4, "none", []reconcile.Finding{{SKU: "a", Retry: []string{"inventory-a"}}}},
		{3, "none", []reconcile.Finding{{SKU: "a", Retry: []string{"inventory-a"}}}},
		{5, "in", []reconcile.Finding{{SKU: "a"}}},
	} {
		h := newHistory(t, tt.skip)
		for _, step := range steps[:tt.done] {
			step(h)
		}
		got := h.audit(reconcile.Config{})
		for i := range got.Findings {
			f := &got.Findings[i]
			if f.Kind != reconcile.StockTransfer || f.Text == "" {
				t.Errorf("got %+v", *f)
			}
			*f = reconcile.Finding{SKU: f.SKU, Retry: f.Retry}
		}
		if diff := cmp.Diff(tt.want, got.Findings); diff != "" || got.SKUs != 1 {
			t.Errorf("after %d steps without %q: %d SKUs\n%s", tt.done, tt.skip, got.SKUs, diff)
		}
	}
}
