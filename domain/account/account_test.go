package account_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"cartwright/domain"
	"cartwright/domain/account"
	"cartwright/domain/domaintest"
	stored "cartwright/domain/event"
	"cartwright/domain/seen"
)

type (
	state   = account.Account
	command = account.Command
	event   = account.Event
)

func given(tb testing.TB, past ...event) *domaintest.Spec[state, command, event] {
	tb.Helper()
	return domaintest.Given(tb, account.Decider, past...)
}

type accepted struct {
	name string
	past []event
	c    command
	want []event
}

func accept(t *testing.T, rows []accepted) {
	t.Helper()
	for _, tt := range rows {
		t.Run(tt.name, func(t *testing.T) { given(t, tt.past...).When(tt.c).Then(tt.want...) })
	}
}

type refused struct {
	name   string
	past   []event
	c      command
	code   domain.Code
	reason string
}

func refuse(t *testing.T, rows []refused) {
	t.Helper()
	for _, tt := range rows {
		t.Run(tt.name, func(t *testing.T) { given(t, tt.past...).When(tt.c).ThenRefused(tt.code, tt.reason) })
	}
}

var (
	opened   = account.Opened{Account: "ann", Currency: "BRL"}
	escrow   = account.Opened{Account: "platform.escrow.BRL", Currency: "BRL"}
	thousand = account.Deposited{Entry: 1, Amount: 1000, Journal: "d1"}
	rich     = []event{opened, thousand}
	until    = time.Date(2025, 6, 1, 12, 0, 0, 0, time.UTC)
	held     = account.Held{Checkout: "c", Claims: []account.Claim{{Order: "1", Amount: 300}, {Order: "2", Amount: 400}}, Expires: until}
	captured = account.Captured{Entry: 2, Order: "1", Amount: 300, Journal: "j", To: "platform.escrow.BRL"}
	released = account.Released{Order: "1", Amount: 300, Reason: "timeout"}
	long     = strings.Repeat("ü", 501)
)

func after(more ...event) []event { return append(rich[:2:2], more...) }

func TestOpening(t *testing.T) {
	accept(t, []accepted{
		{"an account is opened", nil, account.Open{Account: "ann", Currency: "BRL"}, []event{opened}},
		{"opening it again changes nothing", rich, account.Open{Account: "ann", Currency: "BRL"}, nil},
	})
	refuse(t, []refused{
		{"an account has one currency", rich, account.Open{Account: "ann", Currency: "CNY"}, domain.Conflict, "account_exists"},
		{"an account has one owner", rich, account.Open{Account: "bob", Currency: "BRL"}, domain.Conflict, "account_exists"},
		{"a currency is known", nil, account.Open{Account: "ann", Currency: "brl"}, domain.Invalid, "unknown_currency"},
		{"an owner has a name", nil, account.Open{Account: "a b", Currency: "BRL"}, domain.Invalid, "invalid_id"},
		{"nobody opens the platform's accounts", nil, account.Open{Account: account.Escrow("BRL"), Currency: "BRL"}, domain.Invalid, "reserved_account"},
		{"nothing is deposited where no account is", nil, account.Deposit{Amount: 1, Currency: "BRL", Journal: "j"}, domain.NotFound, "unknown_account"},
		{"nor withdrawn", nil, account.Withdraw{Amount: 1, Currency: "BRL", Journal: "j"}, domain.NotFound, "unknown_account"},
		{"nor credited", nil, account.Credit{Account: "ann", Amount: 1, Currency: "BRL", Journal: "j"}, domain.NotFound, "unknown_account"},
		{"nor debited", nil, account.Debit{Account: "ann", Amount: 1, Currency: "BRL", Journal: "j"}, domain.NotFound, "unknown_account"},
		{"nor held", nil, account.Hold{Currency: "BRL"}, domain.NotFound, "unknown_account"},
		{"nor captured", nil, account.Capture{Order: "1", Amount: 1, Journal: "j"}, domain.NotFound, "unknown_account"},
		{"nor released", nil, account.Release{Order: "1"}, domain.NotFound, "unknown_account"},
	})
}

func TestMoneyComesAndGoes(t *testing.T) {
	accept(t, []accepted{
		{
			"money is deposited",
			[]event{opened},
			account.Deposit{Amount: 1000, Currency: "BRL", Journal: "d1", Reference: "bank"},
			[]event{account.Deposited{Entry: 1, Amount: 1000, Journal: "d1", Reference: "bank"}},
		},
		{
			"all there is is withdrawn", rich,
			account.Withdraw{Amount: 1000, Currency: "BRL", Journal: "w1", Reference: "bank"},
			[]event{account.Withdrawn{Entry: 2, Amount: 1000, Journal: "w1", Reference: "bank"}},
		},
		{
			"another account's money comes in", rich,
			account.Credit{Account: "ann", Amount: 5, Currency: "BRL", Journal: "r1", From: "platform.escrow.BRL", Reason: "refund"},
			[]event{account.Credited{Entry: 2, Amount: 5, Journal: "r1", From: "platform.escrow.BRL", Reason: "refund"}},
		},
		{
			"money leaves for another account", rich,
			account.Debit{Account: "ann", Amount: 1000, Currency: "BRL", Journal: "s1", To: "bob", Reason: "settlement"},
			[]event{account.Debited{Entry: 2, Amount: 1000, Journal: "s1", To: "bob", Reason: "settlement"}},
		},
		{
			"the first credit opens a platform's account", nil,
			account.Credit{Account: account.Escrow("BRL"), Amount: 5, Currency: "BRL", Journal: "j", From: "ann", Reason: "capture"},
			[]event{escrow, account.Credited{Entry: 1, Amount: 5, Journal: "j", From: "ann", Reason: "capture"}},
		},
		{
			"the second one does not",
			[]event{escrow, account.Credited{Entry: 1, Amount: 5, Journal: "j"}},
			account.Credit{Account: account.Escrow("BRL"), Amount: 5, Currency: "BRL", Journal: "k", From: "ann", Reason: "capture"},
			[]event{account.Credited{Entry: 2, Amount: 5, Journal: "k", From: "ann", Reason: "capture"}},
		},
		{
			"an account holds as much as a number does", rich,
			account.Deposit{Amount: math.MaxInt64 - 1000, Currency: "BRL", Journal: "d2"},
			[]event{account.Deposited{Entry: 2, Amount: math.MaxInt64 - 1000, Journal: "d2"}},
		},
	})
	refuse(t, []refused{
		{"nothing is no deposit", rich, account.Deposit{Currency: "BRL", Journal: "j"}, domain.Invalid, "bad_amount"},
		{"less than nothing is no deposit", rich, account.Deposit{Amount: -1, Currency: "BRL", Journal: "j"}, domain.Invalid, "bad_amount"},
		{"less than nothing is no withdrawal", rich, account.Withdraw{Amount: -1, Currency: "BRL", Journal: "j"}, domain.Invalid, "bad_amount"},
		{"the least number is no withdrawal", rich, account.Withdraw{Amount: math.MinInt64, Currency: "BRL", Journal: "j"}, domain.Invalid, "bad_amount"},
		{"nothing is no withdrawal", rich, account.Withdraw{Currency: "BRL", Journal: "j"}, domain.Invalid, "bad_amount"},
		{"less than nothing is no credit", rich, account.Credit{Account: "ann", Amount: -1, Currency: "BRL", Journal: "j"}, domain.Invalid, "bad_amount"},
		{"less than nothing is no debit", rich, account.Debit{Account: "ann", Amount: -1, Currency: "BRL", Journal: "j"}, domain.Invalid, "bad_amount"},
		{"more than a number holds is refused", rich, account.Deposit{Amount: math.MaxInt64 - 999, Currency: "BRL", Journal: "j"}, domain.Invalid, "amount_overflow"},
		{"a deposit is in the account's currency", rich, account.Deposit{Amount: 1, Currency: "CNY", Journal: "j"}, domain.Rejected, "wrong_currency"},
		{"a withdrawal is in the account's currency", rich, account.Withdraw{Amount: 1, Currency: "CNY", Journal: "j"}, domain.Rejected, "wrong_currency"},
		{"a credit is in the account's currency", rich, account.Credit{Account: "ann", Amount: 1, Currency: "CNY", Journal: "j"}, domain.Rejected, "wrong_currency"},
		{"a debit is in the account's currency", rich, account.Debit{Account: "ann", Amount: 1, Currency: "CNY", Journal: "j"}, domain.Rejected, "wrong_currency"},
		{"a credit is its account's", rich, account.Credit{Account: "bob", Amount: 1, Currency: "BRL", Journal: "j"}, domain.Invalid, "wrong_account"},
		{"a platform's account has a known currency", nil, account.Credit{Account: "platform.x", Amount: 1, Currency: "x", Journal: "j"}, domain.Invalid, "unknown_currency"},
		{"a platform's account has a name", nil, account.Credit{Account: "platform./", Amount: 1, Currency: "BRL", Journal: "j"}, domain.Invalid, "invalid_id"},
		{"a platform's account is not opened by nothing", nil, account.Credit{Account: "platform.x.BRL", Currency: "BRL", Journal: "j"}, domain.Invalid, "bad_amount"},
		{"no more is withdrawn than there is", rich, account.Withdraw{Amount: 1001, Currency: "BRL", Journal: "j"}, domain.Rejected, "insufficient_funds"},
		{"no more is debited than there is", rich, account.Debit{Account: "ann", Amount: 1001, Currency: "BRL", Journal: "j"}, domain.Rejected, "insufficient_funds"},
		{"what is held is not withdrawn", after(held), account.Withdraw{Amount: 301, Currency: "BRL", Journal: "j"}, domain.Rejected, "insufficient_funds"},
		{"what is held is not debited", after(held), account.Debit{Account: "ann", Amount: 301, Currency: "BRL", Journal: "j"}, domain.Rejected, "insufficient_funds"},
		{"money moves by a journal", rich, account.Deposit{Amount: 1, Currency: "BRL"}, domain.Invalid, "no_journal"},
		{"a journal's name has an end", rich, account.Deposit{Amount: 1, Currency: "BRL", Journal: long}, domain.Invalid, "invalid_text"},
		{"a reference has an end", rich, account.Deposit{Amount: 1, Currency: "BRL", Journal: "j", Reference: long}, domain.Invalid, "invalid_text"},
		{"a counterparty's name has an end", rich, account.Debit{Account: "ann", Amount: 1, Currency: "BRL", Journal: "j", To: long}, domain.Invalid, "invalid_text"},
	})
}

func TestThePlatformsAccountsMoveByJournalsOnly(t *testing.T) {
	past := []event{escrow, account.Credited{Entry: 1, Amount: 5, Journal: "j"}}
	refuse(t, []refused{
		{"nobody withdraws from them", past, account.Withdraw{Amount: 1, Currency: "BRL", Journal: "k"}, domain.Invalid, "reserved_account"},
		{"nobody deposits to them", past, account.Deposit{Amount: 1, Currency: "BRL", Journal: "k"}, domain.Invalid, "reserved_account"},
		{"nobody pays an order from them", past, account.Hold{Currency: "BRL", Claims: []account.Claim{{Order: "1", Amount: 1}}}, domain.Invalid, "reserved_account"},
	})
	given(t, past...).When(account.Debit{Account: "platform.escrow.BRL", Amount: 5, Currency: "BRL", Journal: "k", To: "ann", Reason: "refund"}).
		Then(account.Debited{Entry: 2, Amount: 5, Journal: "k", To: "ann", Reason: "refund"})
}

func TestTheOutsideWorldOwesWhatCameIn(t *testing.T) {
	cash, clearing := account.Cash("BRL"), account.Clearing("wechat", "BRL")
	accept(t, []accepted{
		{
			"a deposit's other leg stands below nothing, in an account that it opens", nil,
			account.Debit{Account: cash, Amount: 5, Currency: "BRL", Journal: "d1", To: "ann", Reason: "deposit"},
			[]event{account.Opened{Account: cash, Currency: "BRL"}, account.Debited{Entry: 1, Amount: 5, Journal: "d1", To: "ann", Reason: "deposit"}},
		},
		{
			"a channel has what it took for us",
			[]event{account.Opened{Account: clearing, Currency: "BRL"}, account.Debited{Entry: 1, Amount: 5, Journal: "a"}},
			account.Debit{Account: clearing, Amount: math.MaxInt64 - 5, Currency: "BRL", Journal: "b", To: account.Escrow("BRL")},
			[]event{account.Debited{Entry: 2, Amount: math.MaxInt64 - 5, Journal: "b", To: account.Escrow("BRL")}},
		},
		{"the other leg of an entry is recorded", rich, account.RecordPosted{Entry: 1}, []event{account.Posted{Entry: 1}}},
		{"it is recorded once", after(account.Posted{Entry: 1}), account.RecordPosted{Entry: 1}, nil},
		{"a later entry may be first", after(account.Withdrawn{Entry: 2, Amount: 1, Journal: "w"}, account.Posted{Entry: 2}), account.RecordPosted{Entry: 1}, []event{account.Posted{Entry: 1}}},
		{"what came from another account has its leg", after(account.Credited{Entry: 2, Amount: 1, Journal: "c"}), account.RecordPosted{Entry: 2}, nil},
	})
	refuse(t, []refused{
		{"an entry that is not there has no other leg", rich, account.RecordPosted{Entry: 2}, domain.Conflict, "unknown_entry"},
		{"nothing is posted where no account is", nil, account.RecordPosted{Entry: 1}, domain.NotFound, "unknown_account"},
		{
			"nobody owes more than a number holds",
			[]event{account.Opened{Account: cash, Currency: "BRL"}, account.Debited{Entry: 1, Amount: math.MaxInt64, Journal: "a"}},
			account.Debit{Account: cash, Amount: 2, Currency: "BRL", Journal: "b"},
			domain.Invalid, "amount_overflow",
		},
		{"escrow owes nobody", []event{escrow}, account.Debit{Account: account.Escrow("BRL"), Amount: 1, Currency: "BRL", Journal: "b"}, domain.Rejected, "insufficient_funds"},
		{"an account that opens itself is in the currency it is named after", nil, account.Debit{Account: cash, Amount: 1, Currency: "CNY", Journal: "a"}, domain.Invalid, "wrong_currency"},
	})
}

func TestASellerMayOwe(t *testing.T) {
	bob := account.Seller("bob", "BRL")
	open := account.Opened{Account: bob, Currency: "BRL"}
	owes := []event{open, account.Credited{Entry: 1, Amount: 10, Journal: "a"}, account.Debited{Entry: 2, Amount: 15, Journal: "b"}}
	accept(t, []accepted{
		{
			"the first settlement opens a seller's account", nil,
			account.Credit{Account: bob, Amount: 10, Currency: "BRL", Journal: "a", From: account.Escrow("BRL"), Reason: "settlement"},
			[]event{open, account.Credited{Entry: 1, Amount: 10, Journal: "a", From: account.Escrow("BRL"), Reason: "settlement"}},
		},
		{
			"a refund is taken though nothing is left",
			[]event{open, account.Credited{Entry: 1, Amount: 10, Journal: "a"}},
			account.Debit{Account: bob, Amount: 15, Currency: "BRL", Journal: "b", To: "ann", Reason: "refund"},
			[]event{account.Debited{Entry: 2, Amount: 15, Journal: "b", To: "ann", Reason: "refund"}},
		},
		{
			"the next settlement repays it", owes,
			account.Credit{Account: bob, Amount: 7, Currency: "BRL", Journal: "c"},
			[]event{account.Credited{Entry: 3, Amount: 7, Journal: "c"}},
		},
		{
			"what is left after that is the seller's", append(owes[:3:3], account.Credited{Entry: 3, Amount: 7, Journal: "c"}),
			account.Withdraw{Amount: 2, Currency: "BRL", Journal: "d"},
			[]event{account.Withdrawn{Entry: 4, Amount: 2, Journal: "d"}},
		},
		{
			"a seller with the longest id has an account", nil,
			account.Credit{Account: account.Seller(strings.Repeat("s", 64), "BRL"), Amount: 1, Currency: "BRL", Journal: "a"},
			[]event{
				account.Opened{Account: account.Seller(strings.Repeat("s", 64), "BRL"), Currency: "BRL"},
				account.Credited{Entry: 1, Amount: 1, Journal: "a"},
			},
		},
	})
	refuse(t, []refused{
		{"nothing is withdrawn while something is owed", owes, account.Withdraw{Amount: 1, Currency: "BRL", Journal: "d"}, domain.Rejected, "insufficient_funds"},
		{"no order is paid from what was earned", owes, account.Hold{Currency: "BRL", Claims: []account.Claim{{Order: "1", Amount: 1}}}, domain.Invalid, "reserved_account"},
		{"nobody opens a seller's account", nil, account.Open{Account: bob, Currency: "BRL"}, domain.Invalid, "reserved_account"},
		{"a seller has a name", nil, account.Credit{Account: "seller..BRL", Amount: 1, Currency: "BRL", Journal: "a"}, domain.Invalid, "invalid_id"},
		{"and a currency", nil, account.Credit{Account: "seller.bob.x", Amount: 1, Currency: "x", Journal: "a"}, domain.Invalid, "unknown_currency"},
	})
	if err := (state{ID: bob, Currency: "BRL", Balance: -5}).Check(); err != nil {
		t.Error(err)
	}
}

func TestAJournalCountsOnce(t *testing.T) {
	past := after(held, captured, account.Withdrawn{Entry: 3, Amount: 10, Journal: "w"}, account.Credited{Entry: 4, Amount: 10, Journal: "r"}, account.Debited{Entry: 5, Amount: 10, Journal: "s"})
	accept(t, []accepted{
		{"a deposit", past, account.Deposit{Amount: 1000, Currency: "BRL", Journal: "d1"}, nil},
		{"a withdrawal", past, account.Withdraw{Amount: 10, Currency: "BRL", Journal: "w"}, nil},
		{"a credit", past, account.Credit{Account: "ann", Amount: 10, Currency: "BRL", Journal: "r"}, nil},
		{"a debit", past, account.Debit{Account: "ann", Amount: 10, Currency: "BRL", Journal: "s"}, nil},
		{"a capture", past, account.Capture{Order: "1", Amount: 300, Journal: "j", To: "platform.escrow.BRL"}, nil},
		{
			"a platform's first credit",
			[]event{escrow, account.Credited{Entry: 1, Amount: 5, Journal: "j"}},
			account.Credit{Account: "platform.escrow.BRL", Amount: 5, Currency: "BRL", Journal: "j"},
			nil,
		},
	})
	refuse(t, []refused{
		{"not as another amount", past, account.Deposit{Amount: 999, Currency: "BRL", Journal: "d1"}, domain.Conflict, "journal_differs"},
		{"not the other way", past, account.Withdraw{Amount: 1000, Currency: "BRL", Journal: "d1"}, domain.Conflict, "journal_differs"},
		{"not as another amount captured", past, account.Capture{Order: "1", Amount: 299, Journal: "j"}, domain.Conflict, "journal_differs"},
		{"not for another order", past, account.Capture{Order: "2", Amount: 300, Journal: "j"}, domain.Conflict, "journal_differs"},
	})
}

func TestHoldingMoney(t *testing.T) {
	hold := account.Hold{Checkout: "c", Currency: "BRL", Claims: held.Claims, Expires: until}
	with := func(change func(*account.Hold)) account.Hold {
		h := hold
		change(&h)
		return h
	}
	claims := func(c ...account.Claim) account.Hold {
		return with(func(h *account.Hold) { h.Claims = c })
	}
	first := account.Held{Checkout: "c", Claims: held.Claims[:1], Expires: until}
	accept(t, []accepted{
		{"money is held for all orders of a checkout", rich, hold, []event{held}},
		{"in UTC", rich, with(func(h *account.Hold) { h.Expires = until.In(time.FixedZone("CST", 8*3600)) }), []event{held}},
		{"all there is is held", rich, claims(account.Claim{Order: "1", Amount: 1000}), []event{account.Held{Checkout: "c", Claims: []account.Claim{{Order: "1", Amount: 1000}}, Expires: until}}},
		{"the same hold again changes nothing", after(held), hold, nil},
		{"what is missing of it is held", after(first), hold, []event{account.Held{Checkout: "c", Claims: held.Claims[1:], Expires: until}}},
	})
	refuse(t, []refused{
		{"all are held or none", rich, claims(account.Claim{Order: "1", Amount: 600}, account.Claim{Order: "2", Amount: 401}), domain.Rejected, "insufficient_funds"},
		{"what is held is not held for others", after(held), claims(account.Claim{Order: "3", Amount: 301}), domain.Rejected, "insufficient_funds"},
		{"an order holds one amount", after(held), claims(account.Claim{Order: "1", Amount: 299}), domain.Conflict, "hold_differs"},
		{"an order holds for one checkout", after(held), with(func(h *account.Hold) { h.Checkout = "d" }), domain.Conflict, "hold_differs"},
		{"what was released is not held again", after(held, released), hold, domain.Conflict, "hold_closed"},
		{"what was captured is not held again", after(held, captured), claims(held.Claims[0]), domain.Conflict, "hold_closed"},
		{"a hold is in the account's currency", rich, with(func(h *account.Hold) { h.Currency = "CNY" }), domain.Rejected, "wrong_currency"},
		{"a hold is for somebody", rich, claims(), domain.Invalid, "no_claims"},
		{"a claim names its order", rich, claims(account.Claim{Amount: 1}), domain.Invalid, "bad_order_id"},
		{"a claim is not nothing", rich, claims(account.Claim{Order: "1"}), domain.Invalid, "bad_amount"},
		{"a claim is not negative", rich, claims(account.Claim{Order: "1", Amount: -1}), domain.Invalid, "bad_amount"},
		{"an order claims once", rich, claims(account.Claim{Order: "1", Amount: 1}, account.Claim{Order: "1", Amount: 2}), domain.Invalid, "duplicate_claim"},
		{"claims that no number holds are refused", rich, claims(account.Claim{Order: "1", Amount: math.MaxInt64}, account.Claim{Order: "2", Amount: 1}), domain.Invalid, "amount_overflow"},
		{"claims that a number just holds are too much", rich, claims(account.Claim{Order: "1", Amount: math.MaxInt64 - 1}, account.Claim{Order: "2", Amount: 1}), domain.Rejected, "insufficient_funds"},
	})
}

func TestCapturing(t *testing.T) {
	capture := account.Capture{Order: "1", Amount: 300, Journal: "j", To: "platform.escrow.BRL"}
	part := account.Captured{Entry: 2, Order: "1", Amount: 299, Freed: 1, Journal: "j", To: "platform.escrow.BRL"}
	accept(t, []accepted{
		{"what is held is taken", after(held), capture, []event{captured}},
		{"part of it is taken and the rest is free", after(held), account.Capture{Order: "1", Amount: 299, Journal: "j", To: "platform.escrow.BRL"}, []event{part}},
		{"what is free is spent", after(held, part), account.Withdraw{Amount: 301, Currency: "BRL", Journal: "w"}, []event{account.Withdrawn{Entry: 3, Amount: 301, Journal: "w"}}},
		{"what is held is freed", after(held), account.Release{Order: "1", Reason: "timeout"}, []event{released}},
		{"once", after(held, released), account.Release{Order: "1", Reason: "timeout"}, nil},
		{"what was never held is free already", rich, account.Release{Order: "1"}, nil},
	})
	refuse(t, []refused{
		{"no more is taken than is held", after(held), account.Capture{Order: "1", Amount: 301, Journal: "j"}, domain.Rejected, "more_than_held"},
		{"nothing can't be taken", after(held), account.Capture{Order: "1", Journal: "j"}, domain.Invalid, "bad_amount"},
		{"less than nothing can't be taken", after(held), account.Capture{Order: "1", Amount: -1, Journal: "j"}, domain.Invalid, "bad_amount"},
		{"the least number can't be taken", after(held), account.Capture{Order: "1", Amount: math.MinInt64, Journal: "j"}, domain.Invalid, "bad_amount"},
		{"money is taken by a journal", after(held), account.Capture{Order: "1", Amount: 1}, domain.Invalid, "no_journal"},
		{"one journal takes for one order", after(held, captured), account.Capture{Order: "2", Amount: 300, Journal: "j"}, domain.Conflict, "journal_differs"},
		{"money is taken once", after(held, captured), account.Capture{Order: "1", Amount: 300, Journal: "k"}, domain.Conflict, "hold_captured"},
		{"what was freed is not taken", after(held, released), capture, domain.Conflict, "unknown_hold"},
		{"what was never held is not taken", rich, capture, domain.Conflict, "unknown_hold"},
		{"what was taken is not freed", after(held, captured), account.Release{Order: "1"}, domain.Conflict, "hold_captured"},
	})
}

func TestHistoriesThatCannotHaveHappened(t *testing.T) {
	for name, past := range map[string][]event{
		"money before it was opened":   {thousand},
		"opened twice":                 {opened, opened},
		"opened for nobody":            {account.Opened{Currency: "BRL"}},
		"opened in no currency":        {account.Opened{Account: "ann"}},
		"an entry is missing":          {opened, account.Deposited{Entry: 2, Amount: 1, Journal: "a"}},
		"an entry came twice":          after(account.Deposited{Entry: 1, Amount: 1, Journal: "a"}),
		"a journal came twice":         after(account.Deposited{Entry: 2, Amount: 1000, Journal: "d1"}),
		"deposited nothing":            {opened, account.Deposited{Entry: 1, Journal: "a"}},
		"withdrew less than nothing":   after(account.Withdrawn{Entry: 2, Amount: -1, Journal: "a"}),
		"withdrew more than there was": after(account.Withdrawn{Entry: 2, Amount: 1001, Journal: "a"}),
		"debited more than there was":  after(account.Debited{Entry: 2, Amount: 1001, Journal: "a"}),
		"credited more than fits":      after(account.Credited{Entry: 2, Amount: math.MaxInt64, Journal: "a"}),
		"held more than there was":     {opened, held},
		"held nothing":                 after(account.Held{Checkout: "c"}),
		"held twice":                   after(held, held),
		"held after the release":       after(held, released, held),
		"captured what nobody held":    after(captured),
		"captured more than was held":  after(held, account.Captured{Entry: 2, Order: "1", Amount: 301, Freed: -1, Journal: "a"}),
		"freed another rest":           after(held, account.Captured{Entry: 2, Order: "1", Amount: 299, Freed: 2, Journal: "a"}),
		"released what nobody held":    after(released),
		"released another amount":      after(held, account.Released{Order: "1", Amount: 299}),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := account.Decider.Fold(state{}, past...)
			if e, ok := errors.AsType[*domain.ReplayError](err); !ok || e.At != len(past)-1 || domain.CodeOf(err) != "" {
				t.Fatalf("got %v; want the last of %d events refused, without a code", err, len(past))
			}
		})
	}
}

func TestEveryEventThatMovesMoneyIsAnEntry(t *testing.T) {
	for _, tt := range []struct {
		e    event
		want account.Entry
		ok   bool
	}{
		{opened, account.Entry{}, false},
		{held, account.Entry{}, false},
		{released, account.Entry{}, false},
		{account.Deposited{Entry: 1, Amount: 5, Journal: "j", Reference: "bank"}, account.Entry{Number: 1, Kind: account.KindDeposit, Amount: 5, Journal: "j", Reference: "bank"}, true},
		{account.Withdrawn{Entry: 2, Amount: 5, Journal: "j", Reference: "bank"}, account.Entry{Number: 2, Kind: account.KindWithdrawal, Amount: -5, Journal: "j", Reference: "bank"}, true},
		{captured, account.Entry{Number: 2, Kind: account.KindCapture, Amount: -300, Journal: "j", Counterparty: "platform.escrow.BRL", Reference: "1"}, true},
		{account.Credited{Entry: 4, Amount: 5, Journal: "j", From: "bob", Reason: "refund"}, account.Entry{Number: 4, Kind: account.KindCredit, Amount: 5, Journal: "j", Counterparty: "bob", Reference: "refund"}, true},
		{account.Debited{Entry: 5, Amount: 5, Journal: "j", To: "bob", Reason: "fee"}, account.Entry{Number: 5, Kind: account.KindDebit, Amount: -5, Journal: "j", Counterparty: "bob", Reference: "fee"}, true},
	} {
		got, ok := account.EntryOf(tt.e)
		if diff := cmp.Diff(tt.want, got); ok != tt.ok || diff != "" {
			t.Errorf("%T: %v (-want +got):\n%s", tt.e, ok, diff)
		}
	}
}

func TestCheckFindsADamagedState(t *testing.T) {
	holds := func(amounts ...int64) (m account.Holds) {
		for i, amount := range amounts {
			m.Put(strconv.Itoa(i), account.Holding{Amount: amount})
		}
		return m
	}
	for name, s := range map[string]state{
		"nothing":      {},
		"money":        {Currency: "BRL", Balance: 1, Entries: 1},
		"all is held":  {Currency: "BRL", Balance: 2, Held: 2, Holds: holds(2)},
		"just too big": {Currency: "BRL", Balance: math.MaxInt64, Held: math.MaxInt64, Holds: holds(math.MaxInt64-1, 1)},
	} {
		if err := s.Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, s := range map[string]state{
		"a balance in no currency": {Balance: 1},
		"entries in no currency":   {Entries: 1},
		"holds in no currency":     {Holds: holds(1), Held: 1},
		"more held than there is":  {Currency: "BRL", Balance: 1, Held: 2, Holds: holds(2)},
		"held for nobody":          {Currency: "BRL", Balance: 1, Held: 1},
		"a hold of nothing":        {Currency: "BRL", Holds: holds(0)},
		"holds that don't fit":     {Currency: "BRL", Balance: 1, Holds: holds(math.MaxInt64, 1)},
		"entries below nothing":    {Currency: "BRL", Entries: -1},
		"an entry too many":        {Currency: "BRL", Entries: 1, Unposted: []int64{1, 2}},
	} {
		if err := s.Check(); err == nil {
			t.Errorf("%s: nothing was found", name)
		}
	}
}

func commands() *rapid.Generator[command] {
	amount := rapid.OneOf(rapid.Int64Range(-1, 9), rapid.SampledFrom([]int64{math.MaxInt64, math.MinInt64, math.MaxInt64 - 5}))
	order := rapid.SampledFrom([]string{"1", "2", "3", ""})
	journal := rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f", "g", ""})
	currency := rapid.SampledFrom([]string{"BRL", "BRL", "BRL", "CNY", "x"})
	accounts := rapid.SampledFrom([]string{"ann", "platform.x.BRL", account.Seller("bob", "BRL"), account.Cash("BRL")})
	return rapid.Custom(func(t *rapid.T) command {
		a, j, c, o := amount.Draw(t, "amount"), journal.Draw(t, "journal"), currency.Draw(t, "currency"), order.Draw(t, "order")
		switch rapid.IntRange(0, 10).Draw(t, "command") {
		case 0:
			return account.Open{Account: rapid.SampledFrom([]string{"ann", "bob", "platform.x"}).Draw(t, "account"), Currency: c}
		case 1:
			return account.Withdraw{Amount: a, Currency: c, Journal: j}
		case 2:
			return account.Release{Order: o}
		case 3, 4:
			return account.Capture{Order: o, Amount: a, Journal: j}
		case 5:
			return account.Debit{Account: accounts.Draw(t, "account"), Amount: a, Currency: c, Journal: j}
		case 6:
			return account.Credit{Account: accounts.Draw(t, "account"), Amount: a, Currency: c, Journal: j}
		case 7:
			return account.Deposit{Amount: a, Currency: c, Journal: j}
		case 8:
			return account.RecordPosted{Entry: rapid.Int64Range(0, 5).Draw(t, "entry")}
		default:
			return account.Hold{Checkout: "c", Currency: c, Claims: []account.Claim{{Order: o, Amount: a}, {Order: order.Draw(t, "second"), Amount: amount.Draw(t, "more")}}}
		}
	})
}

// Whatever is asked, in whatever order: what is decided replays, what is
// replayed is what was lived, the entries sum to the balance and the holds to
// what is held; a clone and a snapshot go on alike.
func TestDecisionsAlwaysReplay(t *testing.T) {
	registry, err := stored.NewRegistry(account.Types()...)
	if err != nil {
		t.Fatal(err)
	}
	wish := commands()
	rapid.Check(t, func(t *rapid.T) {
		var past []event
		live, snapshot := state{}, state{}
		var sum, number int64
		if rapid.Bool().Draw(t, "rich") {
			past = rich
			if live, err = account.Decider.Fold(live, past...); err != nil {
				t.Fatal(err)
			}
			snapshot, sum, number = account.Decider.Clone(live), 1000, 1
		}
		for range rapid.IntRange(1, 40).Draw(t, "length") {
			c := wish.Draw(t, "c")
			events, err := account.Decider.Decide(live, c)
			if err != nil && len(events) > 0 {
				t.Fatalf("%#v: refused and decided", c)
			}
			kept := account.Decider.Clone(live)
			clone := account.Decider.Clone(live)
			for _, e := range events {
				if live, err = account.Decider.Evolve(live, e); err != nil {
					t.Fatalf("%#v: %v", c, err)
				}
				if snapshot, err = account.Decider.Evolve(snapshot, again(t, registry, e)); err != nil {
					t.Fatalf("%#v: %v", c, err)
				}
				if entry, ok := account.EntryOf(e); ok {
					sum += entry.Amount
					if number++; entry.Number != number {
						t.Fatalf("entry %d has number %d", number, entry.Number)
					}
				}
			}
			if diff := domaintest.Diff(kept, clone); diff != "" {
				t.Fatalf("the clone changed with the original (-want +got):\n%s", diff)
			}
			past = append(past, events...)
			if twice, _ := account.Decider.Decide(live, c); len(twice) > 0 {
				t.Fatalf("%#v counts twice: %v", c, twice)
			}
			if err := live.Check(); err != nil || live.Balance != sum {
				t.Fatalf("after %#v: %v; balance %d, the entries sum to %d", c, err, live.Balance, sum)
			}
			snapshot = throughJSON(t, snapshot)
		}
		replayed, err := account.Decider.Fold(state{}, past...)
		if diff := domaintest.Diff(live, replayed); err != nil || diff != "" {
			t.Fatalf("%v; replayed otherwise than lived (-lived +replayed):\n%s", err, diff)
		}
		if diff := domaintest.Diff(live, snapshot); diff != "" {
			t.Fatalf("the snapshot went on otherwise (-lived +snapshot):\n%s", diff)
		}
	})
}

func again(t *rapid.T, registry *stored.Registry, e event) event {
	rec, err := registry.Encode(e)
	if err != nil {
		t.Fatal(err)
	}
	back, err := registry.Decode(rec)
	if err != nil {
		t.Fatal(err)
	}
	return back.(event)
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

// An account forgets its oldest journals, and knows a million of the newest for certain.
func TestWhatAnAccountRemembers(t *testing.T) {
	const kept, step = 1 << 20, 1 << 19
	var done seen.Memory
	done.Put(1000, "journal", "d1")
	done.Count = step - 1
	s := state{ID: "ann", Currency: "BRL", Balance: 1000, Entries: 1, Done: done}
	deposit := func(entry int64) {
		t.Helper()
		var err error
		e := account.Deposited{Entry: entry, Amount: 1, Journal: fmt.Sprint("x", entry)}
		if s, err = account.Decider.Evolve(s, e); err != nil {
			t.Fatal(err)
		}
	}
	repeat := account.Deposit{Amount: 1000, Currency: "BRL", Journal: "d1"}
	deposit(2) // seals the first page
	s.Done.Count = step + kept - 2
	deposit(3)
	if events, err := account.Decider.Decide(s, repeat); err != nil || len(events) > 0 {
		t.Fatalf("forgotten too early: %v, %v", events, err)
	}
	s.Done.Count += step
	deposit(4)
	if events, err := account.Decider.Decide(s, repeat); err != nil || len(events) != 1 {
		t.Fatalf("not forgotten: %v, %v", events, err)
	}
}

func BenchmarkOneOrder(b *testing.B) {
	s := state{ID: "ann", Currency: "BRL", Balance: math.MaxInt64 / 2, Entries: 1}
	do := func(c command) {
		events, err := account.Decider.Decide(s, c)
		if err == nil && len(events) == 1 {
			s, err = account.Decider.Evolve(s, events[0])
		}
		if err != nil || len(events) != 1 {
			b.Fatalf("%#v: %v", c, err)
		}
	}
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		n++
		order := fmt.Sprintf("%019d", n)
		do(account.Hold{Checkout: order, Currency: "BRL", Claims: []account.Claim{{Order: order, Amount: 7}}})
		do(account.Capture{Order: order, Amount: 7, Journal: "capture-" + order, To: "platform.escrow.BRL"})
	}
}
