package writeapi

import (
	"context"

	"cartwright/commands"
	"cartwright/domain/account"
	"cartwright/domain/event"
	"cartwright/domain/money"
	"cartwright/infra/httpedge"
)

type accountBody struct {
	AccountID string `json:"account_id"`
	Currency  string `json:"currency"`
}

func (b accountBody) check(f *faults) {
	f.add(account.CheckID("/account_id", b.AccountID))
	f.currency("/currency", b.Currency)
}

type transferBody struct {
	Amount    *money.Money `json:"amount"`
	Reference string       `json:"reference,omitempty"`
}

func (b transferBody) check(f *faults) {
	f.present(b.Amount != nil, "/amount")
	f.amount("/amount", b.Amount, 1)
	f.text("/reference", b.Reference, maxText)
}

type accountAnswer struct {
	AccountID string         `json:"account_id"`
	Revision  event.Revision `json:"revision"`
	Entry     int64          `json:"entry,omitempty"`
	Amount    *money.Money   `json:"amount,omitempty"`
}

func (a *api) openAccount(ctx context.Context, in input[accountBody]) (answer, error) {
	id := in.body.AccountID
	done, err := a.Shop.Account(ctx, in.req, id, account.Open{Account: id, Currency: in.body.Currency})
	if err != nil {
		return answer{}, err
	}
	out := tellAccount(done, accountAnswer{AccountID: id})
	out.created, out.location = len(done.Events) > 0, "/v1/accounts/"+id
	return out, nil
}

func (a *api) deposit(ctx context.Context, in input[transferBody]) (answer, error) {
	return a.transfer(ctx, in, account.Deposit{
		Amount: in.body.Amount.Amount, Currency: in.body.Amount.Currency, Journal: in.req.Cause, Reference: in.body.Reference,
	})
}

func (a *api) withdraw(ctx context.Context, in input[transferBody]) (answer, error) {
	return a.transfer(ctx, in, account.Withdraw{
		Amount: in.body.Amount.Amount, Currency: in.body.Amount.Currency, Journal: in.req.Cause, Reference: in.body.Reference,
	})
}

// transfer moves money under a journal of the request's own name, so that even
// an account which has forgotten the request knows the journal again.
func (a *api) transfer(ctx context.Context, in input[transferBody], c account.Command) (answer, error) {
	done, err := a.Shop.Account(ctx, in.req, in.to.account, c)
	if err != nil {
		return answer{}, err
	}
	out := tellAccount(done, accountAnswer{AccountID: in.to.account, Amount: in.body.Amount})
	out.created = true
	return out, nil
}

func tellAccount(done commands.Done[account.Event], told accountAnswer) answer {
	told.Revision = done.Revision
	for _, e := range done.Events {
		if entry, ok := account.EntryOf(e); ok {
			told.Entry = entry.Number
		}
	}
	return answer{
		repeated: done.Repeated, etag: httpedge.ETag(done.Revision),
		streams: map[string]event.Revision{done.Stream: done.Revision}, body: told,
	}
}
