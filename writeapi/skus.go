package writeapi

import (
	"context"

	"cartwright/domain"
	"cartwright/domain/catalog"
	"cartwright/domain/event"
	"cartwright/domain/money"
	"cartwright/infra/httpedge"
)

type offerBody struct {
	SellerID  string            `json:"seller_id"`
	Title     string            `json:"title"`
	Specs     map[string]string `json:"specs,omitempty"`
	UnitPrice *money.Money      `json:"unit_price"`
	Freight   *money.Money      `json:"freight,omitempty"`
	OnSale    *bool             `json:"on_sale,omitempty"`
}

// Bounds of an offer's texts, in characters.
const (
	maxTitle = 300
	maxSpecs = 50
	maxSpec  = 200
)

func (b offerBody) check(f *faults) {
	f.add(domain.CheckID("/seller_id", b.SellerID))
	f.present(b.Title != "", "/title")
	f.text("/title", b.Title, maxTitle)
	f.require(len(b.Specs) <= maxSpecs, "wrong_item_count", "/specs", "An offer has at most 50 specs.")
	for name, value := range b.Specs {
		f.present(name != "", "/specs/")
		f.text("/specs/"+escape(name), name, maxSpec)
		f.text("/specs/"+escape(name), value, maxSpec)
	}
	f.present(b.UnitPrice != nil, "/unit_price")
	f.amount("/unit_price", b.UnitPrice, 0)
	f.amount("/freight", b.Freight, 0)
	if b.UnitPrice != nil && b.Freight != nil {
		f.require(b.UnitPrice.Currency == b.Freight.Currency, "wrong_currency", "/freight/currency", "An offer is in one currency.")
	}
}

func (b offerBody) command(sku string) catalog.Publish {
	p := catalog.Publish{OnSale: b.OnSale == nil || *b.OnSale, Snapshot: catalog.Snapshot{
		SKU: sku, Seller: b.SellerID, Title: b.Title, Specs: b.Specs,
		Currency: b.UnitPrice.Currency, UnitPrice: b.UnitPrice.Amount,
	}}
	if b.Freight != nil {
		p.Snapshot.Freight = b.Freight.Amount
	}
	return p
}

type offerAnswer struct {
	SKU      string         `json:"sku"`
	Revision event.Revision `json:"revision"`
	Changed  bool           `json:"changed"`
}

// publish makes an offer, or changes one whose version the caller knows.
// Without a version the offer must be new, or say already what this says.
func (a *api) publish(ctx context.Context, in input[offerBody]) (answer, error) {
	in.req.IfMatch = expected(in.match)
	switch {
	case in.match.Sent && in.absent:
		return answer{}, refuseHeader("if_none_match_malformed", "If-None-Match", "An offer can't be at a version and new.")
	case in.match.Any:
		return answer{}, versionRequired(`Say by If-Match which version of the offer this changes ("v17"); * names none.`)
	case !in.match.Sent:
		in.req.IfMatch = new(event.Revision)
	}
	done, err := a.Shop.PublishOffer(ctx, in.req, in.to.sku, in.body.command(in.to.sku))
	if domain.CodeOf(err) == domain.Stale && !in.match.Sent && !in.absent {
		return answer{}, versionRequired(`There is such an offer. Say by If-Match which version of it this changes ("v17").`)
	}
	if err != nil {
		return answer{}, err
	}
	created := len(done.Events) > 0 && done.Revision == event.Revision(len(done.Events))
	return answer{
		created: created, repeated: done.Repeated, etag: httpedge.ETag(done.Revision), location: "/v1/skus/" + in.to.sku,
		streams: map[string]event.Revision{done.Stream: done.Revision},
		body:    offerAnswer{in.to.sku, done.Revision, len(done.Events) > 0},
	}, nil
}
