package reconcile

import (
	"fmt"
	"strings"

	"cartwright/domain/account"
	"cartwright/domain/event"
	"cartwright/domain/seen"
)

// A holder is an account, what was decided about it, and since when it holds
// money for orders.
type holder struct {
	past
	state  account.Account
	sum    int64 // of its entries
	should int64 // of what was decided
	since  map[string]int64
}

// A move is what was decided to stand in the ledger under one journal.
type move struct {
	journal  string
	from, to string
	amount   int64
	currency string
	by       string // the stream that decided it
}

// A leg is what stands there in one account.
type leg struct {
	account, other, currency string
	amount                   int64
}

// A journal is what was decided and what was entered under one name.
type journal struct {
	wants  []move
	legs   []leg
	newest int64
}

func (a *Audit) holder(id string) *holder {
	h := a.accounts[id]
	if h == nil {
		h = &holder{}
		a.accounts[strings.Clone(id)] = h
	}
	return h
}

func (a *Audit) addAccount(id string, r event.Recorded) {
	h := a.holder(id)
	e, read, taken := follow(a, r, &h.past, &h.state, account.Decider)
	h.state.Done = seen.Memory{}
	if !read {
		return
	}
	if entry, ok := account.EntryOf(e); ok {
		if !taken { // the next entry is judged by this one
			h.state.Entries, h.state.Balance = entry.Number, h.state.Balance+entry.Amount
		}
		h.sum += entry.Amount
		a.enter(id, h.state.Currency, entry, r)
	}
	h.holds(e, r)
}

// holds keeps in mind since when money is on hold.
func (h *holder) holds(e account.Event, r event.Recorded) {
	switch e := e.(type) {
	case account.Held:
		if h.since == nil {
			h.since = map[string]int64{}
		}
		for _, c := range e.Claims {
			h.since[c.Order] = r.Created.UnixMilli()
		}
	case account.Captured:
		delete(h.since, e.Order)
	case account.Released:
		delete(h.since, e.Order)
	default:
	}
	if h.state.Holds.Len() == 0 {
		h.state.Holds, h.since = account.Holds{}, nil
	}
}

// enter takes a leg in. One from or to the outside is a decision too: whoever
// entered it decided that the bank's other leg has to stand.
func (a *Audit) enter(id, currency string, entry account.Entry, r event.Recorded) {
	l := leg{id, entry.Counterparty, currency, entry.Amount}
	switch cash := account.Cash(currency); entry.Kind {
	case account.KindDeposit:
		l.other = cash
		a.decide(r, move{entry.Journal, cash, id, entry.Amount, currency, r.Stream})
	case account.KindWithdrawal:
		l.other = cash
		a.decide(r, move{entry.Journal, id, cash, -entry.Amount, currency, r.Stream})
	case account.KindCapture, account.KindCredit, account.KindDebit:
	}
	j := a.journal(entry.Journal, r)
	j.legs = append(j.legs, l)
	a.forget(entry.Journal, j)
}

// decide notes what has to stand in the ledger. What is nothing need not.
func (a *Audit) decide(r event.Recorded, m move) {
	if m.amount == 0 {
		return
	}
	a.holder(m.from).should -= m.amount
	a.holder(m.to).should += m.amount
	j := a.journal(m.journal, r)
	j.wants = append(j.wants, m)
	a.forget(m.journal, j)
}

func (a *Audit) journal(name string, r event.Recorded) *journal {
	j := a.journals[name]
	if j == nil {
		j = &journal{}
		a.journals[name] = j
	}
	j.newest = max(j.newest, r.Created.UnixMilli())
	return j
}

// forget drops a journal that is as it was decided.
func (a *Audit) forget(name string, j *journal) {
	if len(j.wants) == 1 && j.differs() == "" {
		delete(a.journals, name)
	}
}

// differs says what is wrong with a journal, or "".
func (j *journal) differs() Kind {
	var sum int64
	for _, l := range j.legs {
		sum += l.amount
	}
	switch {
	case len(j.legs) == 0:
		return JournalMissing
	case len(j.legs) == 1:
		return JournalHalf
	case len(j.legs) > 2 || sum != 0:
		return JournalUnbalanced
	}
	x, y := j.legs[0], j.legs[1]
	if x.amount > 0 {
		x, y = y, x // money leaves x
	}
	switch {
	case x.currency != y.currency:
		return JournalCurrencies
	case x.other != y.account || y.other != x.account:
		return JournalParties
	case len(j.wants) != 1:
		return JournalUnexpected
	}
	if w := j.wants[0]; w.from != x.account || w.to != y.account || w.amount != y.amount || w.currency != y.currency {
		return JournalDiffers
	}
	return ""
}

// A wrong is how much a journal that is left over moves an account away from
// where it should be.
func (j *journal) wrong(account string) (sum int64) {
	for _, l := range j.legs {
		if l.account == account {
			sum += l.amount
		}
	}
	for _, w := range j.wants {
		switch account {
		case w.from:
			sum += w.amount
		case w.to:
			sum -= w.amount
		}
	}
	return sum
}

// journals lists those that are left over.
func (r *reporter) journals() {
	for name, j := range sorted(r.audit.journals) {
		f := Finding{Kind: j.differs(), Journal: name}
		if f.Kind == "" {
			f.Kind = JournalUnexpected
		}
		if len(j.wants) > 0 {
			w := j.wants[0]
			if f.Kind == JournalMissing && r.unfinished[w.by] {
				continue // nobody says that it was done
			}
			f.Expected, f.Account, f.Retry = &Sum{w.amount, w.currency}, w.to, []string{w.by}
			f.about(w.by)
			r.listed[w.by] = true
		}
		f.Text = j.says(&f)
		r.add(f, j.newest)
	}
}

// says tells what is wrong with a journal, and how much of it stands.
func (j *journal) says(f *Finding) string {
	var parts []string
	for _, l := range j.legs {
		parts = append(parts, fmt.Sprintf("%d %s in %s from or to %s", l.amount, l.currency, l.account, l.other))
	}
	entered := strings.Join(parts, ", ")
	if len(j.legs) > 0 {
		l := j.legs[0]
		f.Actual = &Sum{max(l.amount, -l.amount), l.currency}
		if f.Account == "" {
			f.Account = l.account
		}
	}
	decided := "nothing"
	if len(j.wants) > 0 {
		w := j.wants[0]
		decided = fmt.Sprintf("%d %s from %s to %s", w.amount, w.currency, w.from, w.to)
	}
	switch f.Kind {
	case JournalMissing:
		return decided + " should stand in the ledger, and does not."
	case JournalHalf:
		return fmt.Sprintf("One leg of two is there: %s; decided is %s.", entered, decided)
	case JournalUnbalanced:
		return fmt.Sprintf("A journal is two legs that sum to nothing, not these: %s; decided is %s.", entered, decided)
	case JournalCurrencies:
		return fmt.Sprintf("Its legs are in two currencies: %s.", entered)
	case JournalParties:
		return fmt.Sprintf("Its legs do not name each other's account: %s.", entered)
	case JournalUnexpected:
		if len(j.wants) > 1 {
			return fmt.Sprintf("It was decided %d times and stands once: %s.", len(j.wants), entered)
		}
		return fmt.Sprintf("Nobody decided it, or it stands twice: %s.", entered)
	default:
		return fmt.Sprintf("Decided is %s, and there stands %s.", decided, entered)
	}
}

// accounts holds each account against its entries, its holds and what was decided.
func (r *reporter) accounts() {
	explained := map[string]int64{}
	for _, j := range r.audit.journals {
		for _, id := range j.parties() {
			explained[id] += j.wrong(id)
		}
	}
	for id, h := range sorted(r.audit.accounts) {
		r.total(id, h)
		if want := h.should + explained[id]; !h.broken && (h.state.Balance != h.sum || h.sum != want) {
			r.add(Finding{
				Kind: AccountBalance, Account: id, Expected: &Sum{want, h.state.Currency}, Actual: &Sum{h.state.Balance, h.state.Currency},
				Text: fmt.Sprintf("It has %d, its entries sum to %d, and with what is listed here it should have %d.", h.state.Balance, h.sum, want),
			}, h.newest)
		}
		if err := h.state.Check(); err != nil && !h.broken {
			r.add(Finding{Kind: AccountState, Account: id, Text: fmt.Sprintf("It contradicts itself: %v.", err)}, h.newest)
		}
		if !h.broken {
			r.outside(id, h)
			r.holds(id, h)
		}
	}
}

// parties are the accounts that a journal is about, each once.
func (j *journal) parties() (ids []string) {
	have := map[string]bool{}
	note := func(id string) {
		if !have[id] {
			have[id] = true
			ids = append(ids, id)
		}
	}
	for _, l := range j.legs {
		note(l.account)
	}
	for _, w := range j.wants {
		note(w.from)
		note(w.to)
	}
	return ids
}

// outside finds an entry from or to the outside whose other leg stands, and of
// which the account does not know that it does.
func (r *reporter) outside(id string, h *holder) {
	stream := "account-" + id
	if len(h.state.Unposted) == 0 || r.listed[stream] {
		return
	}
	r.add(Finding{
		Kind: AccountUnfinished, Account: id, Retry: []string{stream},
		Text: fmt.Sprintf("Its entry %d is from or to the outside, and is not followed up.", h.state.Unposted[0]),
	}, h.newest)
}
