package payment_test

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"cartwright/domain"
	"cartwright/domain/domaintest"
	stored "cartwright/domain/event"
	"cartwright/domain/payment"
)

type (
	state   = payment.Payment
	command = payment.Command
	event   = payment.Event
)

func given(tb testing.TB, past ...event) *domaintest.Spec[state, command, event] {
	tb.Helper()
	return domaintest.Given(tb, payment.Decider, past...)
}

type step struct {
	name string
	past []event
	c    command
	want []event
}

func accept(t *testing.T, rows []step) {
	t.Helper()
	for _, tt := range rows {
		t.Run(tt.name, func(t *testing.T) { given(t, tt.past...).When(tt.c).Then(tt.want...) })
	}
}

type refusal struct {
	name   string
	past   []event
	c      command
	code   domain.Code
	reason string
}

func refuse(t *testing.T, rows []refusal) {
	t.Helper()
	for _, tt := range rows {
		t.Run(tt.name, func(t *testing.T) { given(t, tt.past...).When(tt.c).ThenRefused(tt.code, tt.reason) })
	}
}

var (
	until  = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	splits = []payment.Split{{Order: "1", Seller: "s", Amount: 300}, {Order: "2", Seller: "t", Amount: 400}}
	create = payment.Create{
		Payment: "1-1", Checkout: "1", Buyer: "ann", Channel: "alipay", Currency: "CNY", Amount: 700, Splits: splits, Expires: until,
	}
	created  = payment.Created{Payment: "1-1", Checkout: "1", Buyer: "ann", Channel: "alipay", Currency: "CNY", Amount: 700, Splits: splits, Expires: until}
	asked    = payment.Asked{Reference: "r", Instruction: json.RawMessage(`{"url":"u"}`), Look: until}
	receive  = payment.Receive{Channel: "alipay", Trade: "t", Currency: "CNY", Amount: 700, At: until}
	captured = payment.Captured{Trade: "t", Amount: 700, At: until}
	pending  = []event{created, asked}
	paid     = []event{created, asked, captured}
	request  = payment.RequestRefund{Refund: "1.1", Order: "1", Amount: 300, Reason: "late", Look: until}
	wanted   = payment.RefundRequested{Refund: "1.1", Order: "1", Amount: 300, Reason: "late", Look: until}
)

func after(past []event, more ...event) []event { return append(slices.Clip(past), more...) }

func TestAskingForMoney(t *testing.T) {
	accept(t, []step{
		{"a payment begins", nil, create, []event{created}},
		{"the channel is asked", []event{created}, payment.RecordAsked{Reference: "r", Instruction: asked.Instruction, Look: until}, []event{asked}},
		{"its second answer changes nothing", pending, payment.RecordAsked{Instruction: json.RawMessage(`{}`)}, nil},
		{"an answer that comes after the money changes nothing", []event{created, captured}, payment.RecordAsked{Instruction: json.RawMessage(`{}`)}, nil},
		{"the channel gives up", pending, payment.Fail{Reason: "closed"}, []event{payment.Failed{Reason: "closed"}}},
		{"nobody pays", pending, payment.Expire{}, []event{payment.Expired{}}},
		{"a channel that was never asked is not waited for", []event{created}, payment.Expire{}, []event{payment.Expired{}}},
		{"what has ended ends once", after(pending, payment.Expired{}), payment.Fail{Reason: "closed"}, nil},
		{"money that came stays", paid, payment.Expire{}, nil},
	})
	other := create
	wrong := func(change func(*payment.Create)) payment.Create {
		c := other
		change(&c)
		return c
	}
	refuse(t, []refusal{
		{"a payment begins once", []event{created}, create, domain.Conflict, "payment_exists"},
		{"nothing happens to what is not there", nil, payment.Expire{}, domain.NotFound, "unknown_payment"},
		{"nor comes money for it", nil, receive, domain.NotFound, "unknown_payment"},
		{"the shares are the whole", nil, wrong(func(c *payment.Create) { c.Amount = 701 }), domain.Invalid, "bad_splits"},
		{"an order has one share", nil, wrong(func(c *payment.Create) { c.Splits = []payment.Split{{"1", "s", 300}, {"1", "s", 400}} }), domain.Invalid, "bad_splits"},
		{"a share is more than nothing", nil, wrong(func(c *payment.Create) { c.Splits = []payment.Split{{"1", "s", 700}, {"2", "s", 0}} }), domain.Invalid, "bad_splits"},
		{"no sum overflows", nil, wrong(func(c *payment.Create) {
			c.Splits = []payment.Split{{"1", "s", math.MaxInt64}, {"2", "s", math.MaxInt64}}
		}), domain.Invalid, "bad_splits"},
		{"a currency is known", nil, wrong(func(c *payment.Create) { c.Currency = "cny" }), domain.Invalid, "unknown_currency"},
		{"a channel has a name", nil, wrong(func(c *payment.Create) { c.Channel = "Ali Pay" }), domain.Invalid, "invalid_channel"},
		{"a payment ends some day", nil, wrong(func(c *payment.Create) { c.Expires = time.Time{} }), domain.Invalid, "no_expiry"},
		{"a buyer has an id", nil, wrong(func(c *payment.Create) { c.Buyer = "" }), domain.Invalid, "invalid_id"},
		{"a payment has as many orders as a checkout", nil, wrong(func(c *payment.Create) { c.Splits = make([]payment.Split, 52) }), domain.Invalid, "too_many_splits"},
		{"an instruction is JSON", []event{created}, payment.RecordAsked{Instruction: json.RawMessage(`{`)}, domain.Invalid, "invalid_instruction"},
		{"and not endless", []event{created}, payment.RecordAsked{Instruction: json.RawMessage(`"` + strings.Repeat("a", 16<<10) + `"`)}, domain.Invalid, "invalid_instruction"},
	})
}

func TestATradeCountsOnce(t *testing.T) {
	accept(t, []step{
		{"money comes", pending, receive, []event{captured}},
		{"before we heard that the channel waits for it", []event{created}, receive, []event{captured}},
		{"after the channel gave up", after(pending, payment.Failed{Reason: "closed"}), receive, []event{captured}},
		{"after we gave up", after(pending, payment.Expired{}), receive, []event{captured}},
		{"it is told again", paid, receive, nil},
		{"it is in the ledger", paid, payment.RecordPosted{Trade: "t"}, []event{payment.Posted{Trade: "t"}}},
		{"once", after(paid, payment.Posted{Trade: "t"}), payment.RecordPosted{Trade: "t"}, nil},
		{"the orders have it", paid, payment.RecordApplied{}, []event{payment.Applied{}}},
		{"once too", after(paid, payment.Applied{}), payment.RecordApplied{}, nil},
	})
	otherwise, nothing, nameless := receive, receive, receive
	otherwise.Amount, nothing.Amount, nameless.Trade = 1, 0, ""
	refuse(t, []refusal{
		{"a trade is not told otherwise", paid, otherwise, domain.Conflict, "trade_differs"},
		{"nothing is no money", pending, nothing, domain.Invalid, "bad_amount"},
		{"money comes under a number", pending, nameless, domain.Invalid, "no_trade"},
		{"what did not come is not posted", pending, payment.RecordPosted{Trade: "t"}, domain.Conflict, "unknown_trade"},
		{"nor shared out", pending, payment.RecordApplied{}, domain.Conflict, "not_captured"},
	})
}

func TestMoneyThatWasNotAskedForIsKeptApart(t *testing.T) {
	mismatched := func(reason string, change func(*payment.Receive)) (payment.Receive, payment.Mismatched) {
		c := receive
		change(&c)
		return c, payment.Mismatched{Trade: c.Trade, Channel: c.Channel, Amount: c.Amount, Currency: c.Currency, Reason: reason, At: c.At}
	}
	for _, tt := range []struct {
		reason string
		past   []event
		change func(*payment.Receive)
	}{
		{"wrong_amount", pending, func(c *payment.Receive) { c.Amount = 699 }},
		{"wrong_amount", pending, func(c *payment.Receive) { c.Amount = 701 }},
		{"wrong_currency", pending, func(c *payment.Receive) { c.Currency = "JPY" }},
		{"wrong_channel", pending, func(c *payment.Receive) { c.Channel = "wechat" }},
		{"paid_twice", paid, func(c *payment.Receive) { c.Trade = "u" }},
		{"wrong_amount", after(pending, payment.Expired{}), func(c *payment.Receive) { c.Amount = 1 }},
	} {
		t.Run(tt.reason, func(t *testing.T) {
			c, e := mismatched(tt.reason, tt.change)
			given(t, tt.past...).When(c).Then(e)
			given(t, after(tt.past, e)...).When(c).Then()
		})
	}
	twice := payment.Mismatched{Trade: "u", Channel: "alipay", Amount: 700, Currency: "CNY", Reason: "paid_twice"}
	back := payment.RequestRefund{Refund: "u", Trade: "u", Amount: 700, Reason: "paid_twice", Look: until}
	given(t, after(paid, twice)...).When(back).Then(payment.RefundRequested{Refund: "u", Trade: "u", Amount: 700, Reason: "paid_twice", Look: until})
	again, part, none := back, back, back
	again.Refund, part.Amount, none.Trade = "v", 1, "t"
	refuse(t, []refusal{
		{"it goes back once", after(paid, twice, payment.RefundRequested{Refund: "u", Trade: "u", Amount: 700}), again, domain.Conflict, "already_returned"},
		{"and whole", after(paid, twice), part, domain.Rejected, "wrong_amount"},
		{"what was asked for is no mismatch", after(paid, twice), none, domain.NotFound, "unknown_trade"},
		{
			"in another currency it goes back at the channel",
			after(pending, payment.Mismatched{Trade: "u", Channel: "alipay", Amount: 700, Currency: "JPY", Reason: "wrong_currency"}), back,
			domain.Conflict, "not_returnable",
		},
	})
}

func TestWhatWasSettledOutsideIsResolved(t *testing.T) {
	yen := payment.Mismatched{Trade: "u", Channel: "alipay", Amount: 700, Currency: "JPY", Reason: "wrong_currency"}
	resolve := payment.ResolveTrade{Trade: "u", By: "ann", Reason: "given back at the counter"}
	resolved := payment.TradeResolved(resolve)
	wrong := after(pending, yen)
	given(t, wrong...).When(resolve).Then(resolved)
	given(t, after(wrong, resolved)...).When(payment.RecordCleared{Trade: "u"}).Then(payment.TradeCleared{Trade: "u"})
	given(t, after(wrong, resolved, payment.TradeCleared{Trade: "u"})...).When(payment.RecordCleared{Trade: "u"}).Then()
	refuse(t, []refusal{
		{"once", after(wrong, resolved), resolve, domain.Conflict, "already_returned"},
		{"for a reason", wrong, payment.ResolveTrade{Trade: "u", By: "ann"}, domain.Invalid, "no_reason"},
		{"what was asked for is not resolved", paid, payment.ResolveTrade{Trade: "t", By: "ann", Reason: "x"}, domain.NotFound, "unknown_trade"},
		{"nothing leaves the ledger that is not resolved", wrong, payment.RecordCleared{Trade: "u"}, domain.Conflict, "unknown_trade"},
		{
			"what was resolved does not go back as well", after(paid, payment.Mismatched{Trade: "u", Channel: "alipay", Amount: 5, Currency: "CNY", Reason: "wrong_amount"}, resolved),
			payment.RequestRefund{Refund: "u", Trade: "u", Amount: 5},
			domain.Conflict, "already_returned",
		},
	})
}

func TestRefundsNeverExceedWhatCame(t *testing.T) {
	requested := after(paid, wanted)
	done := after(requested, payment.RefundSucceeded{Refund: "1.1"})
	failed := after(requested, payment.RefundFailed{Refund: "1.1", Reason: "closed account"})
	away := after(failed, payment.RefundRedirected{Refund: "1.1", To: payment.ToBalance, Look: until})
	says := func(s payment.RefundStatus, by payment.Way) payment.RecordRefund {
		return payment.RecordRefund{Refund: "1.1", By: by, Status: s, Reason: "closed account"}
	}
	accept(t, []step{
		{"money is asked back", paid, request, []event{wanted}},
		{"once", requested, request, nil},
		{"also when it is back", done, request, nil},
		{"the channel takes its time", requested, says(payment.RefundIsProcessing, payment.ToChannel), []event{payment.RefundProcessing{Refund: "1.1"}}},
		{"the money is back", requested, says(payment.RefundIsDone, payment.ToChannel), []event{payment.RefundSucceeded{Refund: "1.1"}}},
		{"that is told once", done, says(payment.RefundIsDone, payment.ToChannel), nil},
		{"what is said after that changes nothing", done, says(payment.RefundIsRefused, payment.ToChannel), nil},
		{"the channel refuses", requested, says(payment.RefundIsRefused, payment.ToChannel), []event{payment.RefundFailed{Refund: "1.1", Reason: "closed account"}}},
		{"what was refused is not under way", failed, says(payment.RefundIsProcessing, payment.ToChannel), nil},
		{"it succeeds after all", failed, says(payment.RefundIsDone, payment.ToChannel), []event{payment.RefundSucceeded{Refund: "1.1"}}},
		{"an operator sends it elsewhere", failed, payment.RedirectRefund{Refund: "1.1", To: payment.ToBalance, Look: until}, []event{payment.RefundRedirected{Refund: "1.1", To: payment.ToBalance, Look: until}}},
		{"once more", away, payment.RedirectRefund{Refund: "1.1", To: payment.ToBalance}, nil},
		{"there it arrives", away, says(payment.RefundIsDone, payment.ToBalance), []event{payment.RefundSucceeded{Refund: "1.1"}}},
		{"it is in the ledger", done, payment.RecordRefundPosted{Refund: "1.1"}, []event{payment.RefundPosted{Refund: "1.1"}}},
		{"once in all", after(done, payment.RefundPosted{Refund: "1.1"}), payment.RecordRefundPosted{Refund: "1.1"}, nil},
	})
	more, other, nothing := request, request, request
	more.Refund, more.Amount, other.Amount, nothing.Amount, nothing.Refund = "1.2", 401, 299, 0, "1.2"
	refuse(t, []refusal{
		{"no more goes back than came", requested, more, domain.Rejected, "over_refund"},
		{"nothing goes back before it came", pending, request, domain.Rejected, "over_refund"},
		{"a key is one refund", requested, other, domain.Conflict, "refund_differs"},
		{"nothing is no refund", paid, nothing, domain.Invalid, "bad_amount"},
		{"a refund has a key", paid, payment.RequestRefund{Amount: 1}, domain.Invalid, "no_key"},
		{"the channel speaks of what is there", paid, says(payment.RefundIsDone, payment.ToChannel), domain.NotFound, "unknown_refund"},
		{"the channel has no say in what goes elsewhere", away, says(payment.RefundIsDone, payment.ToChannel), domain.Conflict, "refund_redirected"},
		{"what is under way is not sent elsewhere", requested, payment.RedirectRefund{Refund: "1.1", To: payment.ToBalance}, domain.Conflict, "refund_requested"},
		{"there are two ways back", failed, payment.RedirectRefund{Refund: "1.1", To: "cash"}, domain.Invalid, "unknown_way"},
		{"what is not back is not posted", requested, payment.RecordRefundPosted{Refund: "1.1"}, domain.Conflict, "refund_requested"},
		{"a channel does not say requested", requested, payment.RecordRefund{Refund: "1.1", By: payment.ToChannel, Status: "lost"}, domain.Invalid, "invalid_status"},
	})
}

func TestHistoriesThatCannotHaveHappened(t *testing.T) {
	for name, past := range map[string][]event{
		"money for nothing":            {captured},
		"asked twice":                  after(pending, asked),
		"captured twice":               after(paid, payment.Captured{Trade: "u", Amount: 700}),
		"captured otherwise":           after(pending, payment.Captured{Trade: "u", Amount: 1}),
		"one trade twice":              after(paid, payment.Mismatched{Trade: "t", Amount: 700, Currency: "CNY", Reason: "x"}),
		"failed after the money":       after(paid, payment.Failed{}),
		"more back than came":          after(paid, payment.RefundRequested{Refund: "r", Amount: 701}),
		"back twice":                   after(paid, wanted, payment.RefundSucceeded{Refund: "1.1"}, payment.RefundSucceeded{Refund: "1.1"}),
		"a refund of nothing asked":    after(paid, payment.RefundProcessing{Refund: "1.1"}),
		"posted before it came":        after(pending, payment.Posted{Trade: "t"}),
		"shared out before it came":    after(pending, payment.Applied{}),
		"redirected before it failed":  after(paid, wanted, payment.RefundRedirected{Refund: "1.1", To: payment.ToBalance}),
		"posted twice":                 after(paid, payment.Posted{Trade: "t"}, payment.Posted{Trade: "t"}),
		"a refund posted twice":        after(paid, wanted, payment.RefundSucceeded{Refund: "1.1"}, payment.RefundPosted{Refund: "1.1"}, payment.RefundPosted{Refund: "1.1"}),
		"a second refund by one key":   after(paid, wanted, wanted),
		"a beginning without a share":  {payment.Created{Payment: "1", Channel: "a", Currency: "CNY", Amount: 1}},
		"a beginning after everything": after(paid, created),
	} {
		if _, err := payment.Decider.Fold(state{}, past...); err == nil {
			t.Errorf("%s was believed", name)
		}
	}
}

func wishes() *rapid.Generator[command] {
	key := rapid.SampledFrom([]string{"a", "b", "c", ""})
	number := rapid.SampledFrom([]string{"t", "u", "v", ""})
	amount := rapid.SampledFrom([]int64{-1, 0, 1, 300, 400, 700, math.MaxInt64})
	way := rapid.SampledFrom([]payment.Way{payment.ToChannel, payment.ToBalance, "x"})
	status := rapid.SampledFrom([]payment.RefundStatus{payment.RefundIsProcessing, payment.RefundIsDone, payment.RefundIsRefused, "x"})
	return rapid.Custom(func(t *rapid.T) command {
		switch rapid.IntRange(0, 14).Draw(t, "command") {
		case 13:
			return payment.ResolveTrade{Trade: number.Draw(t, "trade"), By: "a", Reason: "x"}
		case 14:
			return payment.RecordCleared{Trade: number.Draw(t, "trade")}
		case 0:
			return payment.RecordAsked{Instruction: json.RawMessage(`{}`), Look: until}
		case 1, 2:
			return payment.Receive{
				Channel: rapid.SampledFrom([]string{"alipay", "wechat"}).Draw(t, "channel"), Trade: number.Draw(t, "trade"),
				Currency: rapid.SampledFrom([]string{"CNY", "CNY", "JPY"}).Draw(t, "currency"), Amount: amount.Draw(t, "amount"),
			}
		case 3:
			return payment.Fail{Reason: "x"}
		case 4:
			return payment.Expire{}
		case 5:
			return payment.RecordPosted{Trade: number.Draw(t, "trade")}
		case 6:
			return payment.RecordApplied{}
		case 7, 8:
			return payment.RequestRefund{Refund: key.Draw(t, "key"), Order: "1", Amount: amount.Draw(t, "amount")}
		case 9:
			return payment.RequestRefund{Refund: key.Draw(t, "key"), Trade: number.Draw(t, "trade"), Amount: amount.Draw(t, "amount")}
		case 10:
			return payment.RedirectRefund{Refund: key.Draw(t, "key"), To: way.Draw(t, "way")}
		case 11:
			return payment.RecordRefundPosted{Refund: key.Draw(t, "key")}
		default:
			return payment.RecordRefund{Refund: key.Draw(t, "key"), By: way.Draw(t, "way"), Status: status.Draw(t, "status")}
		}
	})
}

// Whatever is asked, in whatever order: what is decided replays, a repeat
// changes nothing, what goes back came, a clone and a snapshot go on alike.
func TestDecisionsAlwaysReplay(t *testing.T) {
	registry, err := stored.NewRegistry(payment.Types()...)
	if err != nil {
		t.Fatal(err)
	}
	wish := wishes()
	rapid.Check(t, func(t *rapid.T) {
		past := []event{created}
		live, err := payment.Decider.Fold(state{}, past...)
		if err != nil {
			t.Fatal(err)
		}
		snapshot := payment.Decider.Clone(live)
		for range rapid.IntRange(1, 40).Draw(t, "length") {
			c := wish.Draw(t, "c")
			events, refused := payment.Decider.Decide(live, c)
			if refused != nil && len(events) > 0 {
				t.Fatalf("%#v: refused and decided", c)
			}
			clone := payment.Decider.Clone(live)
			kept := payment.Decider.Clone(live)
			for _, e := range events {
				if live, err = payment.Decider.Evolve(live, e); err != nil {
					t.Fatalf("%#v: %v", c, err)
				}
				if snapshot, err = payment.Decider.Evolve(throughJSON(t, snapshot), again(t, registry, e)); err != nil {
					t.Fatalf("%#v: %v", c, err)
				}
			}
			if diff := domaintest.Diff(kept, clone); diff != "" {
				t.Fatalf("the clone changed with the original (-want +got):\n%s", diff)
			}
			past = append(past, events...)
			if twice, refused := payment.Decider.Decide(live, c); refused == nil && len(twice) > 0 {
				t.Fatalf("%#v counts twice: %v", c, twice)
			}
			var came, back int64
			for _, tr := range live.Trades {
				if tr.Mismatch == "" {
					came += tr.Amount
				}
			}
			for _, r := range live.Refunds {
				if r.Trade == "" {
					back += r.Amount
				}
			}
			if came != live.Captured || back > came || back != live.Returned() {
				t.Fatalf("%d came, %d captured, %d go back", came, live.Captured, back)
			}
		}
		replayed, err := payment.Decider.Fold(state{}, past...)
		if diff := domaintest.Diff(live, replayed); err != nil || diff != "" {
			t.Fatalf("%v; replayed otherwise than lived (-lived +replayed):\n%s", err, diff)
		}
		if diff := domaintest.Diff(live, throughJSON(t, snapshot)); diff != "" {
			t.Fatalf("the snapshot went on otherwise (-lived +snapshot):\n%s", diff)
		}
	})
}

func again(t *rapid.T, registry *stored.Registry, e event) event {
	rec, err := registry.Encode(e)
	if err != nil {
		t.Fatal(err)
	}
	back, err := stored.Decode[event](registry, rec)
	if err != nil {
		t.Fatal(err)
	}
	return back
}

func throughJSON(t *rapid.T, s state) (back state) {
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	return back
}
