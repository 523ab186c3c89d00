package trade_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"cartwright/domain"
	"cartwright/domain/domaintest"
	"cartwright/domain/trade"
)

func given(tb testing.TB, past ...trade.Event) *domaintest.Spec[trade.Trade, trade.Command, trade.Event] {
	tb.Helper()
	return domaintest.Given(tb, trade.Decider, past...)
}

var (
	see  = trade.See{Channel: "alipay", Trade: "t", Payment: "p", Amount: 5, Currency: "CNY"}
	seen = trade.Seen{Channel: "alipay", Trade: "t", Payment: "p", Amount: 5, Currency: "CNY"}
)

func TestOneTradeIsForOnePayment(t *testing.T) {
	given(t).When(see).Then(seen)
	given(t, seen).When(see).Then()
	other := see
	other.Payment = "q"
	given(t, seen).When(other).Then(trade.Differed{Payment: "q", Amount: 5, Currency: "CNY"})
	more := see
	more.Amount = 6
	given(t, seen).When(more).Then(trade.Differed{Payment: "p", Amount: 6, Currency: "CNY"})
	past := []trade.Event{seen}
	for range 20 {
		past = append(past, trade.Differed{Payment: "q", Amount: 5, Currency: "CNY"})
	}
	given(t, past...).When(other).Then()
}

func TestMoneyForNobodyIsOnRecord(t *testing.T) {
	orphaned := trade.Orphaned{Reason: "unknown_payment"}
	given(t, seen).When(trade.Orphan{Reason: "unknown_payment"}).Then(orphaned)
	given(t, seen, orphaned).When(trade.Orphan{Reason: "unknown_payment"}).Then()
	given(t, seen, orphaned).When(trade.RecordPosted{}).Then(trade.Posted{})
	given(t, seen, orphaned, trade.Posted{}).When(trade.RecordPosted{}).Then()
	given(t, seen).When(trade.RecordPosted{}).ThenRefused(domain.Conflict, "no_orphan")
	given(t).When(trade.Orphan{Reason: "x"}).ThenRefused(domain.NotFound, "unknown_trade")
}

func TestAnOrphanIsResolvedByWord(t *testing.T) {
	orphaned, resolved := trade.Orphaned{Reason: "unknown_payment"}, trade.Resolved{By: "ann", Reason: "given back"}
	given(t, seen, orphaned).When(trade.Resolve(resolved)).Then(resolved)
	given(t, seen, orphaned, resolved).When(trade.Resolve(resolved)).ThenRefused(domain.Conflict, "already_returned")
	given(t, seen).When(trade.Resolve(resolved)).ThenRefused(domain.Conflict, "no_orphan")
	given(t, seen, orphaned).When(trade.Resolve{By: "ann"}).ThenRefused(domain.Invalid, "no_reason")
	given(t, seen, orphaned, resolved).When(trade.RecordCleared{}).Then(trade.Cleared{})
	given(t, seen, orphaned, resolved, trade.Cleared{}).When(trade.RecordCleared{}).Then()
	given(t, seen, orphaned).When(trade.RecordCleared{}).ThenRefused(domain.Conflict, "not_resolved")
	given(t).When(trade.Resolve(resolved)).ThenRefused(domain.NotFound, "unknown_trade")
}

func TestNonsenseIsNoTrade(t *testing.T) {
	for _, c := range []trade.See{
		{Trade: "t", Amount: 1, Currency: "CNY"}, {Channel: "a", Amount: 1, Currency: "CNY"},
	} {
		given(t).When(c).ThenRefused(domain.Invalid, "no_trade")
	}
	for _, c := range []trade.See{
		{Channel: "a", Trade: "t", Currency: "CNY"}, {Channel: "a", Trade: "t", Amount: -1, Currency: "CNY"}, {Channel: "a", Trade: "t", Amount: 1},
	} {
		given(t).When(c).ThenRefused(domain.Invalid, "bad_amount")
	}
	for _, past := range [][]trade.Event{
		{seen, seen},
		{trade.Differed{}},
		{trade.Orphaned{Reason: "x"}},
		{trade.Posted{}},
		{seen, trade.Posted{}},
		{seen, trade.Orphaned{}},
		{seen, trade.Orphaned{Reason: "x"}, trade.Orphaned{Reason: "x"}},
		{trade.Seen{Channel: "a", Trade: "t"}},
		{seen, trade.Orphaned{Reason: "x"}, trade.Posted{}, trade.Posted{}},
		{seen, trade.Resolved{Reason: "x"}},
		{seen, trade.Cleared{}},
		{seen, trade.Orphaned{Reason: "x"}, trade.Resolved{}},
		{seen, trade.Orphaned{Reason: "x"}, trade.Resolved{Reason: "x"}, trade.Resolved{Reason: "x"}},
		{seen, trade.Orphaned{Reason: "x"}, trade.Resolved{Reason: "x"}, trade.Cleared{}, trade.Cleared{}},
	} {
		if _, err := trade.Decider.Fold(trade.Trade{}, past...); err == nil {
			t.Errorf("%v was believed", past)
		}
	}
}

func TestAStreamIsNamedByChannelAndNumber(t *testing.T) {
	a, b := trade.ID("alipay", "1"), trade.ID("wechat", "1")
	if a == b || a == trade.ID("alipay", "2") || len(trade.ID("alipay", strings.Repeat("ü", 1000))) != len(a) {
		t.Errorf("%s and %s", a, b)
	}
	if err := domain.CheckID("", a); err != nil {
		t.Error(err)
	}
}

func TestDecisionsAlwaysReplay(t *testing.T) {
	wish := rapid.Custom(func(t *rapid.T) trade.Command {
		switch rapid.IntRange(0, 5).Draw(t, "command") {
		case 4:
			return trade.Resolve{By: "a", Reason: "x"}
		case 5:
			return trade.RecordCleared{}
		case 0:
			return trade.Orphan{Reason: "x"}
		case 1:
			return trade.RecordPosted{}
		default:
			return trade.See{
				Channel: "a", Trade: rapid.SampledFrom([]string{"t", ""}).Draw(t, "trade"), Payment: rapid.SampledFrom([]string{"p", "q"}).Draw(t, "payment"),
				Amount: rapid.Int64Range(-1, 2).Draw(t, "amount"), Currency: "CNY",
			}
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		var live trade.Trade
		for range rapid.IntRange(1, 30).Draw(t, "length") {
			c := wish.Draw(t, "c")
			events, err := trade.Decider.Decide(live, c)
			if err != nil && len(events) > 0 {
				t.Fatalf("%#v: refused and decided", c)
			}
			if live, err = trade.Decider.Fold(live, events...); err != nil {
				t.Fatalf("%#v: %v", c, err)
			}
		}
	})
}
