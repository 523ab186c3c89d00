package elasticviews

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"cartwright/domain/event"
	"cartwright/domain/orderid"
	"cartwright/projections"
)

// Orders is the order index. Its methods may be called concurrently.
type Orders struct{ *Views[projections.Order] }

// NewOrders opens the view.
func NewOrders(ctx context.Context, db *DB) (*Orders, error) {
	v, err := newViews(ctx, db, projections.OrdersView().Name, ordersShape(projections.OrdersView().Name))
	if err != nil {
		return nil, err
	}
	return &Orders{v}, nil
}

// sales is the kind of index that has orders by seller.
const sales = "sales"

// ordersVersion is that of both kinds' mapping. 2 has when orders were closed.
const ordersVersion = 2

func ordersShape(name string) shape[projections.Order] {
	orders := documents(name, listed(map[string]any{
		"currency": kept, "day": keptN, "month": keptN,
	}, keptN))
	orders.version = ordersVersion
	return shape[projections.Order]{
		kinds: []kind{
			orders,
			{name: sales, version: ordersVersion, fields: listed(map[string]any{
				"stream": sorted, "body": stored, "currency": sorted, "day": summed, "month": summed,
			}, summed)},
		},
		searched: true,
		place:    orderPlace,
		source:   func(doc projections.Doc[projections.Order]) any { return fileOrder(doc) },
		beside:   sale,
		tiers: &tiering[projections.Order]{
			placed:   func(o projections.Order) time.Time { return o.PlacedAt },
			archived: projections.Order.Archived,
		},
		clear: clearSales,
	}
}

// listed are the fields that lists of orders are made by, and the sums', which
// only one of the two copies takes in.
func listed(fields, sums map[string]any) map[string]any {
	for _, name := range []string{"buyer", "seller", "status"} {
		fields[name] = keyword
	}
	fields["placed"], fields["closed"], fields["to_ship"], fields["words"] = long, long, flag, text
	for _, amount := range []string{"units", "gross", "refunded"} {
		for i := range parts {
			fields[part(amount, i)] = sums
		}
	}
	return fields
}

var errNoOrder = errors.New("the view has no place for a stream that is not called after an order id")

// orderPlace routes an order by the bucket in its id.
func orderPlace(stream string) (string, error) {
	id, err := orderid.Parse(event.SubjectID(stream))
	if err != nil || event.Category(stream) != "order" {
		return "", errNoOrder
	}
	return bucket(id.Bucket()), nil
}

func bucket(n int) string { return fmt.Sprintf("%06d", n) }

// party routes by a buyer's, seller's or account's id. It may have any characters in
// it, of which commas would mean several routings to a search.
func party(id string) string {
	digest := sha256.Sum256([]byte(id))
	return hex.EncodeToString(digest[:8])
}

// An orderSource is an order as it is stored, in both places alike. A stream
// without an order in it has nothing but its name and its body.
type orderSource struct {
	Stream string `json:"stream"`
	*filing
	Body projections.Order `json:"body"`
}

// A filing is what an order is found and summed up by.
type filing struct {
	Buyer    string `json:"buyer"`
	Seller   string `json:"seller"`
	Currency string `json:"currency"`
	Status   string `json:"status"`
	Placed   int64  `json:"placed"` // microseconds since 1970
	Closed   when   `json:"closed,omitzero"`
	Day      int64  `json:"day"`   // UTC days since 1970
	Month    int64  `json:"month"` // UTC months since the year 0
	ToShip   bool   `json:"to_ship"`
	Words    string `json:"words"`

	Units0    int64 `json:"units0,omitempty"`
	Units1    int64 `json:"units1,omitempty"`
	Units2    int64 `json:"units2,omitempty"`
	Gross0    int64 `json:"gross0,omitempty"`
	Gross1    int64 `json:"gross1,omitempty"`
	Gross2    int64 `json:"gross2,omitempty"`
	Refunded0 int64 `json:"refunded0,omitempty"`
	Refunded1 int64 `json:"refunded1,omitempty"`
	Refunded2 int64 `json:"refunded2,omitempty"`
}

func fileOrder(doc projections.Doc[projections.Order]) orderSource {
	s := orderSource{Stream: doc.Stream, Body: doc.Body}
	f, placed := doc.Body.Facts()
	if !placed {
		return s
	}
	units, gross, refunded := split(f.Units), split(f.Gross), split(f.Refunded)
	s.filing = &filing{
		Closed: closing(doc.Body),
		Buyer:  f.Buyer, Seller: f.Seller, Currency: f.Currency, Status: f.Status,
		Placed: stamp(f.PlacedAt), Day: dayOf(f.PlacedAt), Month: monthOf(f.PlacedAt), ToShip: f.ToShip, Words: doc.Body.Words(),
		Units0: units[0], Units1: units[1], Units2: units[2],
		Gross0: gross[0], Gross1: gross[1], Gross2: gross[2],
		Refunded0: refunded[0], Refunded1: refunded[1], Refunded2: refunded[2],
	}
	return s
}

// when is a stamp, or none.
type when struct {
	at  int64
	set bool
}

// closing is when an order was closed, if it was.
func closing(o projections.Order) when {
	if o.ClosedAt.IsZero() {
		return when{}
	}
	return when{stamp(o.ClosedAt), true}
}

// MarshalJSON writes a stamp, which is asked for only where there is one.
func (w when) MarshalJSON() ([]byte, error) { return strconv.AppendInt(nil, w.at, 10), nil }

// UnmarshalJSON reads a stamp.
func (w *when) UnmarshalJSON(raw []byte) (err error) {
	w.at, err = strconv.ParseInt(string(raw), 10, 64)
	w.set = err == nil
	return err
}

// sale is the order's copy among its seller's.
func sale(at indices, doc projections.Doc[projections.Order], source []byte, repair bool) ([]op, error) {
	f, placed := doc.Body.Facts()
	if !placed {
		return nil, nil
	}
	version := uint64(doc.Revision)
	return []op{{
		action: "index", index: at.of(sales), id: doc.Stream, routing: party(f.Seller),
		version: &version, same: repair, source: source, owner: doc.Stream,
	}}, nil
}

// clearSales takes an order from a seller who is not its own. No history moves
// an order, but what is to be repaired may say anything.
func clearSales(ctx context.Context, at indices, docs []projections.Doc[projections.Order]) error {
	refs := make([]ref, len(docs))
	wanted := make(map[string]projections.Doc[projections.Order], len(docs))
	for i, doc := range docs {
		routing, err := orderPlace(doc.Stream)
		if err != nil {
			return err
		}
		refs[i], wanted[doc.Stream] = ref{ID: doc.Stream, Routing: routing}, doc
	}
	stored, err := at.db.anywhere(ctx, at, projections.OrdersView().Name, refs, entire)
	if err != nil {
		return err
	}
	var ops []op
	for _, old := range stored {
		doc := wanted[old.ID]
		if !old.Found || event.Revision(old.Version) > doc.Revision { //nolint:gosec // as it was stored
			continue
		}
		var was struct {
			Seller string `json:"seller"`
		}
		if err := json.Unmarshal(old.Source, &was); err != nil {
			return fmt.Errorf("decode %s: %w", old.ID, err)
		}
		f, _ := doc.Body.Facts()
		if was.Seller == "" || was.Seller == f.Seller {
			continue
		}
		version := uint64(doc.Revision)
		ops = append(ops, op{
			action: "delete", index: at.where(old.Index).of(sales), id: old.ID, routing: party(was.Seller), version: &version, same: true, owner: old.ID,
		})
	}
	return at.db.c.each(ctx, ops)
}

// each carries out ops that nothing but an earlier one of the same can hinder.
func (c *client) each(ctx context.Context, ops []op) error {
	outcomes, err := c.bulk(ctx, ops)
	if err != nil {
		return err
	}
	for i, o := range outcomes {
		if !o.done() && !o.conflict() && (o.status != 404 || o.gone()) {
			return fmt.Errorf("write %s: %w", ops[i].owner, o.err())
		}
	}
	return nil
}

// stamp stores a time to the microsecond.
func stamp(t time.Time) int64 { return t.UnixMicro() }

// bound stores the end of a range: a time within a microsecond begins the next.
func bound(t time.Time) int64 {
	at := t.UnixMicro()
	if time.UnixMicro(at).Before(t) {
		at++
	}
	return at
}

func unstamp(at int64) time.Time { return time.UnixMicro(at).UTC() }

const microDay = int64(24 * time.Hour / time.Microsecond)

// dayOf counts UTC days from 1970.
func dayOf(t time.Time) int64 {
	day := stamp(t) / microDay
	if stamp(t)%microDay < 0 {
		day--
	}
	return day
}

// monthOf counts UTC months from the year 0.
func monthOf(t time.Time) int64 { return int64(t.UTC().Year())*12 + int64(t.UTC().Month()) - 1 }
