package account

// A Kind says what moved the money of an entry.
type Kind string

// The kinds of entries.
const (
	KindDeposit    Kind = "deposit"
	KindWithdrawal Kind = "withdrawal"
	KindCapture    Kind = "capture"
	KindCredit     Kind = "credit"
	KindDebit      Kind = "debit"
)

// An Entry is one line of an account's ledger. The sum of an account's entries
// is its balance.
type Entry struct {
	Number       int64
	Kind         Kind
	Amount       int64 // minor units; negative where money left
	Journal      string
	Counterparty string // the other account; empty where it is the outside world
	Reference    string // what the money was for: an order, a bank's reference, a reason
}

// EntryOf is the ledger's line for an event. Events that move no money have none.
func EntryOf(e Event) (Entry, bool) {
	switch e := e.(type) {
	case Deposited:
		return Entry{e.Entry, KindDeposit, e.Amount, e.Journal, "", e.Reference}, true
	case Withdrawn:
		return Entry{e.Entry, KindWithdrawal, -e.Amount, e.Journal, "", e.Reference}, true
	case Captured:
		return Entry{e.Entry, KindCapture, -e.Amount, e.Journal, e.To, e.Order}, true
	case Credited:
		return Entry{e.Entry, KindCredit, e.Amount, e.Journal, e.From, e.Reason}, true
	case Debited:
		return Entry{e.Entry, KindDebit, -e.Amount, e.Journal, e.To, e.Reason}, true
	case Opened, Held, Released, Posted:
	}
	return Entry{}, false
}
