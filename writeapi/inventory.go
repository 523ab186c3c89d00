package writeapi

import (
	"context"

	"cartwright/domain/event"
	"cartwright/domain/inventory"
	"cartwright/infra/httpedge"
)

type receiptBody struct {
	Quantity  int64  `json:"quantity"`
	Reference string `json:"reference,omitempty"`
}

func (b receiptBody) check(f *faults) {
	f.between("/quantity", b.Quantity, 1, maxQuantity)
	f.text("/reference", b.Reference, maxText)
}

type adjustmentBody struct {
	OnHand      int64  `json:"on_hand,omitempty"`
	Unavailable int64  `json:"unavailable,omitempty"`
	Reason      string `json:"reason"`
}

func (b adjustmentBody) check(f *faults) {
	f.between("/on_hand", b.OnHand, -maxQuantity, maxQuantity)
	f.between("/unavailable", b.Unavailable, -maxQuantity, maxQuantity)
	f.require(b.OnHand != 0 || b.Unavailable != 0, "missing_field", "/on_hand", "An adjustment changes on_hand, unavailable, or both.")
	f.present(b.Reason != "", "/reason")
	f.text("/reason", b.Reason, maxText)
}

type countBody struct {
	OnHand *int64 `json:"on_hand"`
	Reason string `json:"reason"`
}

func (b countBody) check(f *faults) {
	counter(f, "/on_hand", b.OnHand)
	f.present(b.Reason != "", "/reason")
	f.text("/reason", b.Reason, maxText)
}

type policyBody struct {
	Safety         *int64 `json:"safety"`
	BackorderLimit *int64 `json:"backorder_limit"`
}

func (b policyBody) check(f *faults) {
	counter(f, "/safety", b.Safety)
	counter(f, "/backorder_limit", b.BackorderLimit)
}

type shardsBody struct {
	Shards int64 `json:"shards"`
}

func (b shardsBody) check(f *faults) {
	f.between("/shards", b.Shards, 2, inventory.MaxShards)
}

// counter checks a number that must be said, for 0 is one.
func counter(f *faults, pointer string, n *int64) {
	f.present(n != nil, pointer)
	if n != nil {
		f.between(pointer, *n, 0, inventory.Limit)
	}
}

type stockAnswer struct {
	SKU      string         `json:"sku"`
	Revision event.Revision `json:"revision"`
	Changed  bool           `json:"changed"`
}

// inventory runs a command. What moves stock, or counts it, is a record of its
// own in the stock's history, and so created.
func (a *api) inventory(ctx context.Context, h head, sku string, c inventory.Command) (answer, error) {
	done, err := a.Shop.Inventory(ctx, h.req, sku, c)
	if err != nil {
		return answer{}, err
	}
	created := true
	switch c.(type) {
	case inventory.SetPolicy, inventory.Divide:
		created = false
	default:
	}
	return answer{
		created: created, repeated: done.Repeated, etag: httpedge.ETag(done.Revision),
		streams: map[string]event.Revision{done.Stream: done.Revision},
		body:    stockAnswer{sku, done.Revision, len(done.Events) > 0},
	}, nil
}

func (a *api) receive(ctx context.Context, in input[receiptBody]) (answer, error) {
	return a.inventory(ctx, in.head, in.to.sku, inventory.Receive{Quantity: in.body.Quantity, Reference: in.body.Reference})
}

func (a *api) adjust(ctx context.Context, in input[adjustmentBody]) (answer, error) {
	return a.inventory(ctx, in.head, in.to.sku,
		inventory.Adjust{OnHand: in.body.OnHand, Unavailable: in.body.Unavailable, Reason: in.body.Reason})
}

func (a *api) count(ctx context.Context, in input[countBody]) (answer, error) {
	return a.inventory(ctx, in.head, in.to.sku, inventory.Count{OnHand: *in.body.OnHand, Reason: in.body.Reason})
}

func (a *api) setPolicy(ctx context.Context, in input[policyBody]) (answer, error) {
	return a.inventory(ctx, in.head, in.to.sku, inventory.SetPolicy{Safety: *in.body.Safety, Backorder: *in.body.BackorderLimit})
}

func (a *api) divide(ctx context.Context, in input[shardsBody]) (answer, error) {
	return a.inventory(ctx, in.head, in.to.sku, inventory.Divide{Shards: int(in.body.Shards)})
}
