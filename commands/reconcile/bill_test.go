package reconcile_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cartwright/commands/reconcile"
	"cartwright/domain/order"
	"cartwright/domain/payment"
	"cartwright/domain/trade"
)

const billHead = "time,kind,trade,payment,refund,amount,currency\n"

func readBill(tb testing.TB, text string) *reconcile.Bill {
	tb.Helper()
	b, err := reconcile.ReadBill(strings.NewReader(text), "bank", time.Time{}, time.Time{})
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func at(d time.Duration) string { return began.Add(d).Format(time.RFC3339) }

// days is a bill of a day before and a day after, with these rows in between.
func days(rows ...string) string {
	all := append([]string{
		at(-24*time.Hour) + ",payment,t-before,x,,1,BRL", at(24*time.Hour) + ",payment,t-after,x,,1,BRL",
	}, rows...)
	return billHead + strings.Join(all, "\n") + "\n"
}

func TestABillIsComparedWithWhatWeHave(t *testing.T) {
	id := orderID(t, 0)
	p := id + "-1"
	paid := at(0) + ",payment,t-1," + p + ",,440,BRL"
	back := at(20*time.Second) + ",refund,t-1," + p + "," + id + ".1,110,BRL"
	for name, tt := range map[string]struct {
		bill  string
		skip  string
		want  string
		about []string // of findings, what they are about
	}{
		"all agrees":                        {days(paid, back), "", "[bill_missing×2]", nil},
		"a payment is not billed":           {days(back), "", "[bill_extra bill_missing×2]", []string{"t-1"}},
		"a refund is not billed":            {days(paid), "", "[bill_extra bill_missing×2]", []string{id + ".1"}},
		"another amount":                    {days(strings.Replace(paid, "440", "441", 1), back), "", "[bill_differs bill_missing×2]", []string{"t-1"}},
		"another currency":                  {days(strings.Replace(paid, "BRL", "USD", 1), back), "", "[bill_differs bill_missing×2]", []string{"t-1"}},
		"another payment":                   {days(strings.Replace(paid, p, id+"-2", 1), back), "", "[bill_differs bill_missing×2]", []string{"t-1"}},
		"another amount of refund":          {days(paid, strings.Replace(back, "110", "11", 1)), "", "[bill_differs bill_missing×2]", []string{id + ".1"}},
		"the same twice":                    {days(paid, back, paid), "", "[bill_missing×2 bill_twice]", []string{"t-1"}},
		"a refund of nobody":                {days(paid, back, strings.Replace(back, ".1,", ".7,", 1)), "", "[bill_missing×3]", []string{id + ".7"}},
		"a refund that is on its way":       {days(paid, back), "paid back, back out, back in, back posted, refunded", "[bill_missing×3 payment_unfinished]", []string{id + ".1"}},
		"a span that ends before all of it": {billHead + at(-2*time.Hour) + ",payment,t-0,x,,1,BRL\n" + at(-time.Hour) + ",payment,t-0b,x,,1,BRL\n", "", "[bill_missing×2]", nil},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHistory(t, strings.Split(tt.skip, ", ")...)
			h.channelled(id)
			got := h.audit(reconcile.Config{Bill: readBill(t, tt.bill)})
			if kinds(got.Findings) != tt.want {
				t.Errorf("got %s, want %s: %+v", kinds(got.Findings), tt.want, got.Findings)
			}
			for _, about := range tt.about {
				found := false
				for _, f := range got.Findings {
					found = found || (f.Trade == about || f.Refund == about) && strings.HasPrefix(string(f.Kind), "bill_")
				}
				if !found {
					t.Errorf("nothing is about %s: %+v", about, got.Findings)
				}
			}
		})
	}
}

func TestABillSaysHowMuchAgrees(t *testing.T) {
	id := orderID(t, 0)
	h := newHistory(t)
	p := h.channelled(id)
	h.trade("", "bank2", "t-9", trade.See{Channel: "bank2", Trade: "t-9", Payment: p, Amount: 1, Currency: "BRL", At: began}) // another channel's
	text := days(at(0)+",payment,t-1,"+p+",,440,BRL", at(time.Hour)+",refund,,"+p+",nobody,5,BRL")
	got := h.audit(reconcile.Config{Bill: readBill(t, text)}).Bill
	want := &reconcile.BillSum{
		Channel: "bank", From: began.Add(-24 * time.Hour), To: began.Add(24 * time.Hour), Rows: 4, Agree: 1, Missing: 3, Extra: 1,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got: %s", diff)
	}
	b, err := reconcile.ReadBill(strings.NewReader(text), "bank", began, began.Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	got = h.audit(reconcile.Config{Bill: b}).Bill
	if want = (&reconcile.BillSum{Channel: "bank", From: began, To: began.Add(time.Minute), Rows: 1, Agree: 1, Extra: 1}); !cmp.Equal(want, got) {
		t.Errorf("of a minute: %+v", got)
	}
}

// What happened at the border of a bill's time may stand on the next one: the
// channel's clock says when, and of a refund we only know between which times.
func TestARefundAtABillsBorderIsNotExtra(t *testing.T) {
	id := orderID(t, 0)
	h := newHistory(t)
	h.channelled(id)
	var asked, done time.Time
	for _, r := range h.log {
		switch r.Name {
		case "payment.refund_requested":
			asked = r.Created
		case "payment.refund_succeeded":
			done = r.Created
		}
	}
	for _, tt := range []struct {
		from, to time.Time
		want     string
	}{
		{asked, done, "[bill_extra]"},
		{asked.Add(1), done, "[]"},
		{asked, done.Add(-1), "[]"},
	} {
		b, err := reconcile.ReadBill(strings.NewReader(billHead), "bank", tt.from, tt.to)
		if err != nil {
			t.Fatal(err)
		}
		if got := h.audit(reconcile.Config{Bill: b}); kinds(got.Findings) != tt.want {
			t.Errorf("%s to %s: got %+v", tt.from, tt.to, got.Findings)
		}
	}
}

func TestARefundToTheBalanceIsOnNoBill(t *testing.T) {
	id := orderID(t, 0)
	h := newHistory(t, "paid back", "back out", "back in")
	h.skip = append(h.skip, "back posted", "refunded")
	p := h.channelled(id)
	h.payment("", p, payment.RecordRefund{Refund: id + ".1", By: payment.ToChannel, Status: payment.RefundIsRefused, Reason: "no"})
	h.payment("", p, payment.RedirectRefund{Refund: id + ".1", To: payment.ToBalance, Look: began})
	h.payment("", p, payment.RecordRefund{Refund: id + ".1", By: payment.ToBalance, Status: payment.RefundIsDone})
	h.fund()
	h.move("", "back-"+p+"."+id+".1", escrow, buyer, 110)
	h.payment("", p, payment.RecordRefundPosted{Refund: id + ".1"})
	h.skip = nil
	h.order("", id, order.RecordRefundSettled{Refund: 1})
	got := h.audit(reconcile.Config{Bill: readBill(t, days(at(0)+",payment,t-1,"+p+",,440,BRL"))})
	if kinds(got.Findings) != "[bill_missing×2]" { // those of the days before and after
		t.Errorf("got %+v", got.Findings)
	}
}

func TestABillIsReadAsItComes(t *testing.T) {
	plain := billHead + at(0) + ",payment,t-1,p,,440,BRL\n" + at(time.Minute) + ",refund,t-1,p,r,110,BRL\n"
	windows := "\ufeff" + strings.ReplaceAll(plain, "\n", "\r\n")
	other := "Currency, AMOUNT,shop,refund,payment,trade,kind,time\nBRL,440,s,,p,\"t-1\",payment," + at(0) + "\nBRL,110,s,r,p,t-1,refund," + at(time.Minute) + "\n"
	for name, text := range map[string]string{"plain": plain, "from Windows": windows, "otherwise ordered": other} {
		b := readBill(t, text)
		if b.Channel != "bank" || !b.From.Equal(began) || !b.To.Equal(began.Add(time.Minute)) {
			t.Errorf("%s: %+v", name, b)
		}
		h := newHistory(t)
		got := h.audit(reconcile.Config{Bill: b})
		if kinds(got.Findings) != "[bill_missing×2]" || got.Findings[0].Line != 2 || got.Findings[1].Refund != "r" {
			t.Errorf("%s: %+v", name, got.Findings)
		}
	}
}

func TestABadBillIsRefusedLineByLine(t *testing.T) {
	good := at(0) + ",payment,t-1,p,,440,BRL\n"
	for name, tt := range map[string]struct {
		text string
		want []string
	}{
		"nothing":                  {"", []string{"the bill's head: EOF"}},
		"no such column":           {"time,kind,trade,payment,refund,amount\n", []string{"no column currency"}},
		"a column twice":           {"time,kind,trade,trade,payment,refund,amount,currency\n", []string{"two columns trade"}},
		"no rows":                  {billHead, []string{"the bill is empty"}},
		"a time of day":            {billHead + good + strings.Replace(good, at(0), "12:00", 1), []string{`line 3: "12:00" is no time`}},
		"no amount":                {billHead + strings.Replace(good, "440", "4.40", 1), []string{`line 2: "4.40" is no amount`}},
		"nothing at all":           {billHead + strings.Replace(good, "440", "0", 1), []string{`line 2: "0" is no amount`}},
		"less than nothing":        {billHead + strings.Replace(good, "440", "-440", 1), []string{`line 2: "-440" is no amount`}},
		"no currency":              {billHead + strings.Replace(good, "BRL", "REAIS", 1), []string{`line 2: "REAIS" is no currency`}},
		"another kind":             {billHead + strings.Replace(good, "payment", "fee", 1), []string{`line 2: "fee" is neither`}},
		"no trade":                 {billHead + strings.Replace(good, "t-1", "", 1), []string{"line 2: a payment without a trade"}},
		"a refund without a key":   {billHead + strings.Replace(good, "payment", "refund", 1), []string{"line 2: a refund without its key"}},
		"a short row":              {billHead + good + "2026-03-01T12:00:00Z,payment\n", []string{"line 3: \"\" is no amount"}},
		"quotes that do not close": {billHead + "\"", []string{"line 2"}},
		"several": {
			billHead + strings.Replace(good, "440", "x", 1) + good + strings.Replace(good, "BRL", "x", 1),
			[]string{`line 2: "x" is no amount`, `line 4: "x" is no currency`},
		},
	} {
		_, err := reconcile.ReadBill(strings.NewReader(tt.text), "bank", time.Time{}, time.Time{})
		if err == nil {
			t.Errorf("%s: read", name)
			continue
		}
		for _, want := range tt.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want %s", name, err, want)
			}
		}
	}
	if _, err := reconcile.ReadBill(strings.NewReader(billHead+good), "bank", began.Add(time.Hour), time.Time{}); err == nil || !strings.Contains(err.Error(), "before it begins") {
		t.Errorf("a span that ends before it begins: %v", err)
	}
}
