package readapi

import (
	"context"
	"time"

	"cartwright/domain"
	"cartwright/domain/account"
	"cartwright/domain/event"
	"cartwright/domain/money"
	"cartwright/infra/httpedge"
	"cartwright/projections"
)

type offerBody struct {
	SKU       string            `json:"sku"`
	SellerID  string            `json:"seller_id"`
	Title     string            `json:"title"`
	Specs     map[string]string `json:"specs"`
	UnitPrice money.Money       `json:"unit_price"`
	Freight   money.Money       `json:"freight"`
	OnSale    bool              `json:"on_sale"`
	Offer     string            `json:"offer"` // the digest that orders name it by
	ChangedAt time.Time         `json:"changed_at"`
	Revision  event.Revision    `json:"revision"`
}

func (a *api) offer(ctx context.Context, r *request) (answer, error) {
	doc, found, err := find(ctx, a, viewOffers, a.Offers, r, "offer-"+r.id)
	if err != nil {
		return answer{}, err
	}
	if !found {
		return answer{}, domain.Refuse(domain.NotFound, "unknown_sku", "Nothing is offered as %s.", r.id)
	}
	s := doc.Body.Snapshot
	told := offerBody{
		SKU: r.id, SellerID: s.Seller, Title: s.Title, Specs: s.Specs, OnSale: doc.Body.OnSale,
		UnitPrice: money.Money{Amount: s.UnitPrice, Currency: s.Currency},
		Freight:   money.Money{Amount: s.Freight, Currency: s.Currency},
		Offer:     doc.Body.Digest, ChangedAt: doc.Body.ChangedAt.UTC(), Revision: doc.Revision,
	}
	if told.Specs == nil {
		told.Specs = map[string]string{}
	}
	return answer{httpedge.ETag(doc.Revision), told}, nil
}

type stockBody struct {
	SKU            string         `json:"sku"`
	OnHand         int64          `json:"on_hand"`
	Held           int64          `json:"held"`
	Allocated      int64          `json:"allocated"`
	Unavailable    int64          `json:"unavailable"`
	Safety         int64          `json:"safety"`
	BackorderLimit int64          `json:"backorder_limit"`
	Available      int64          `json:"available"`
	Shards         int            `json:"shards,omitempty"`
	ChangedAt      time.Time      `json:"changed_at"`
	Revision       event.Revision `json:"revision"`
}

func (a *api) stock(ctx context.Context, r *request) (answer, error) {
	doc, found, err := find(ctx, a, viewStock, a.Stock, r, "inventory-"+r.id)
	if err != nil {
		return answer{}, err
	}
	if !found {
		return answer{}, domain.Refuse(domain.NotFound, "unknown_sku", "There is no stock of %s.", r.id)
	}
	s, tag := doc.Body, httpedge.ETag(doc.Revision)
	if s.Shards > 1 {
		if s, tag, err = a.allShards(ctx, r.id, doc); err != nil {
			return answer{}, err
		}
	}
	return answer{tag, stockBody{
		SKU: r.id, OnHand: s.OnHand, Held: s.Held, Allocated: s.Allocated, Unavailable: s.Unavailable,
		Safety: s.Safety, BackorderLimit: s.Backorder,
		Available: s.OnHand - s.Unavailable - s.Safety - s.Held - s.Allocated,
		Shards:    s.Shards, ChangedAt: s.ChangedAt.UTC(), Revision: doc.Revision,
	}}, nil
}

// allShards is a SKU that is divided, by the documents of its shards: one stock,
// whatever is on the way between them and however far the view is with each
// (TestADividedSKUIsShownAsOneStock). Its revision, and what If-Match is held
// against, is the first shard's, where policy, receipts and corrections are.
func (a *api) allShards(ctx context.Context, sku string, first projections.Doc[projections.Stock]) (projections.Stock, string, error) {
	var streams []string
	for k := 1; k < first.Body.Shards; k++ {
		streams = append(streams, "inventory-"+domain.StockID(sku, k))
	}
	docs, err := a.Stock.Get(ctx, streams)
	if err != nil {
		return projections.Stock{}, "", away(err)
	}
	sum, others := first.Body, event.Revision(0)
	sum.OnHand -= sum.Moved
	for _, doc := range docs {
		others += doc.Revision
		s := doc.Body
		sum.OnHand += s.OnHand - s.Moved
		sum.Held, sum.Allocated, sum.Unavailable = sum.Held+s.Held, sum.Allocated+s.Allocated, sum.Unavailable+s.Unavailable
		if s.ChangedAt.After(sum.ChangedAt) {
			sum.ChangedAt = s.ChangedAt
		}
	}
	return sum, httpedge.SumTag(first.Revision, others), nil
}

type accountBody struct {
	AccountID string         `json:"account_id"`
	Currency  string         `json:"currency"`
	Balance   money.Money    `json:"balance"`
	Held      money.Money    `json:"held"`
	Available money.Money    `json:"available"`
	Entries   int64          `json:"entries"`
	OpenedAt  time.Time      `json:"opened_at"`
	ChangedAt time.Time      `json:"changed_at"`
	Revision  event.Revision `json:"revision"`
}

func (a *api) account(ctx context.Context, r *request) (answer, error) {
	doc, err := a.findAccount(ctx, r, func() error { return nil })
	if err != nil {
		return answer{}, err
	}
	b := doc.Body
	in := func(amount int64) money.Money { return money.Money{Amount: amount, Currency: b.Currency} }
	return answer{httpedge.ETag(doc.Revision), accountBody{
		AccountID: r.id, Currency: b.Currency, Balance: in(b.Balance), Held: in(b.Held), Available: in(b.Balance - b.Held),
		Entries: b.Entries, OpenedAt: b.OpenedAt.UTC(), ChangedAt: b.ChangedAt.UTC(), Revision: doc.Revision,
	}}, nil
}

// findAccount gives an account, and asks for what else is wanted of it in the
// same breath.
func (a *api) findAccount(ctx context.Context, r *request, besides func() error) (projections.Doc[projections.Account], error) {
	stream := "account-" + r.id
	docs, err := seen(ctx, a, viewAccounts, a.Accounts, one(r.token, stream), func() (map[string]projections.Doc[projections.Account], error) {
		docs, err := a.Accounts.Get(ctx, []string{stream})
		if err != nil {
			return nil, err
		}
		return docs, besides()
	})
	doc, found := docs[stream]
	if err == nil && !found {
		err = domain.Refuse(domain.NotFound, "unknown_account", "There is no account %s.", r.id)
	}
	return doc, err
}

type entryBody struct {
	Entry        int64        `json:"entry"`
	Kind         account.Kind `json:"kind"`
	Amount       money.Money  `json:"amount"` // negative where money left
	Balance      money.Money  `json:"balance"`
	Journal      string       `json:"journal"`
	Counterparty string       `json:"counterparty,omitempty"`
	Reference    string       `json:"reference,omitempty"`
	At           time.Time    `json:"at"`
}

func (a *api) entries(ctx context.Context, r *request) (answer, error) {
	limit := r.limit()
	if err := r.check(); err != nil {
		return answer{}, err
	}
	from := originOf("entries", r.id)
	before, err := a.entryCursor(r, from)
	if err != nil {
		return answer{}, err
	}
	var found projections.EntryPage
	doc, err := a.findAccount(ctx, r, func() (err error) {
		found, err = a.Accounts.Entries(ctx, r.id, before, limit)
		return err
	})
	if err != nil {
		return answer{}, err
	}
	told := page[entryBody]{Items: make([]entryBody, 0, len(found.Items)), NextCursor: a.sealEntry(from, found.Next)}
	for _, e := range found.Items {
		told.Items = append(told.Items, tellEntry(e, doc.Body.Currency))
	}
	return answer{body: told}, nil
}

func tellEntry(e projections.Entry, currency string) entryBody {
	return entryBody{
		Entry: e.Number, Kind: e.Kind, Journal: e.Journal, Counterparty: e.Counterparty, Reference: e.Reference, At: e.At.UTC(),
		Amount: money.Money{Amount: e.Amount, Currency: currency}, Balance: money.Money{Amount: e.Balance, Currency: currency},
	}
}
