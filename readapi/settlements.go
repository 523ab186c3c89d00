package readapi

import (
	"context"
	"strings"
	"time"

	"cartwright/domain/account"
	"cartwright/domain/event"
	"cartwright/domain/money"
	"cartwright/domain/orderid"
	"cartwright/projections"
)

// The kinds of a settlement statement's lines.
const (
	lineSettlement = "settlement" // what an order has earned
	lineRefund     = "refund"     // what went back of it afterwards
	lineWithdrawal = "withdrawal"
	lineDeposit    = "deposit"
	lineOther      = "other"
)

// settlementBody is one line of a settlement statement.
type settlementBody struct {
	Entry   int64       `json:"entry"`
	Kind    string      `json:"kind"`
	OrderID string      `json:"order_id,omitempty"` // of a settlement or a refund
	Amount  money.Money `json:"amount"`             // negative where money left
	Balance money.Money `json:"balance"`
	Journal string      `json:"journal"`
	At      time.Time   `json:"at"`
}

func tellSettlement(e projections.Entry, currency string) settlementBody {
	kind, order := settledFor(e)
	return settlementBody{
		Entry: e.Number, Kind: kind, OrderID: order, Journal: e.Journal, At: e.At.UTC(),
		Amount: money.Money{Amount: e.Amount, Currency: currency}, Balance: money.Money{Amount: e.Balance, Currency: currency},
	}
}

// settledFor says what an entry of a seller's account is for, and for which
// order: its journal is named after it, "settle-<order>" or
// "clawback-<order>/<refund>".
func settledFor(e projections.Entry) (kind, order string) {
	switch e.Kind {
	case account.KindDeposit:
		return lineDeposit, ""
	case account.KindWithdrawal:
		return lineWithdrawal, ""
	case account.KindCredit:
		id, ok := strings.CutPrefix(e.Journal, "settle-")
		return named(lineSettlement, id, ok)
	case account.KindDebit:
		rest, ok := strings.CutPrefix(e.Journal, "clawback-")
		id, _, numbered := strings.Cut(rest, "/")
		return named(lineRefund, id, ok && numbered)
	case account.KindCapture: // nobody holds money there
	}
	return lineOther, ""
}

// named is a line of this kind if what its journal is named after is an order.
func named(kind, id string, ok bool) (string, string) {
	if _, err := orderid.Parse(id); !ok || err != nil {
		return lineOther, ""
	}
	return kind, id
}

// currency is a parameter that must be there: there is an account for each.
func (r *request) currency() string {
	code, _ := r.value("currency")
	if !money.Valid(code) {
		r.fault("currency", "Say which account: an ISO-4217 code.")
	}
	return code
}

// settlements gives a seller's account as a settlement statement. A seller who
// has earned nothing yet has an empty one.
func (a *api) settlements(ctx context.Context, r *request) (answer, error) {
	limit, currency := r.limit(), r.currency()
	if err := r.check(); err != nil {
		return answer{}, err
	}
	id := account.Seller(r.id, currency)
	from := originOf("settlements", id)
	before, err := a.entryCursor(r, from)
	if err != nil {
		return answer{}, err
	}
	found, err := a.sellersEntries(ctx, r.token, id, before, limit)
	if err != nil {
		return answer{}, err
	}
	told := page[settlementBody]{Items: make([]settlementBody, 0, len(found.Items)), NextCursor: a.sealEntry(from, found.Next)}
	for _, e := range found.Items {
		told.Items = append(told.Items, tellSettlement(e, currency))
	}
	return answer{body: told}, nil
}

// sellersEntries gives some entries of an account that need not be there.
func (a *api) sellersEntries(ctx context.Context, token map[string]event.Revision, id string, before int64, limit int) (projections.EntryPage, error) {
	return seen(ctx, a, viewAccounts, a.Accounts, one(token, "account-"+id), func() (projections.EntryPage, error) {
		return a.Accounts.Entries(ctx, id, before, limit)
	})
}
