package readapi_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cartwright/domain/order"
	"cartwright/infra/cputime"
	"cartwright/projections"
)

// oddOrders are orders as they seldom are: with nothing but what they must have,
// with all there can be, and with texts and times that are hard to write.
func oddOrders() map[string]projections.Doc[projections.Order] {
	at := func(minute int) time.Time {
		return time.Date(2026, 7, 1, 12, minute, 0, 0, time.FixedZone("CST", 8*60*60))
	}
	bare := order.Order{ID: "0598392000001123456", Buyer: "123456", Seller: "s1", Currency: "CNY", Status: order.StatusPending}
	full := order.Order{
		ID: "0598392000002123456", Checkout: "0598392000001123456", Buyer: "123456", Seller: "s1", Currency: "JPY", Status: order.StatusShipped,
		Lines: []order.Item{
			{Line: order.Line{Line: 1, SKU: "tea:1", Title: "绿茶 <b>\"green\"</b> & \u2028 \\ \t\x01\b\f\xff 🍵", Offer: "digest", Quantity: 3, UnitPrice: 100, Freight: 5, Shard: 2}, Packed: 1, Shipped: 2, Returned: 1, Refunded: 105, RefundedFreight: 5},
			{Line: order.Line{Line: 2, SKU: "pot:1", Quantity: 1, UnitPrice: 1 << 60}, Shipped: 1, RefundedUnshipped: 1},
		},
		Address: []byte("sealed"), Attempt: "a", Deadline: at(30).Add(100 * time.Nanosecond), Siblings: []order.Sibling{{}},
		Paid: 1 << 60, Method: "channel", PaymentID: "0598392000001123456-1",
		Parcels: []order.Parcel{
			{Parcel: 1, Status: order.ParcelIsDelivered, Lines: []order.Part{{Line: 1, Quantity: 2}, {Line: 2, Quantity: 1}}, Waybill: order.Waybill{Version: 2, Carrier: "SF", Number: "<2>"}, History: []order.Waybill{{Version: 1, Carrier: "SF", Number: "1"}}, StockShipped: true},
			{Parcel: 2, Status: order.ParcelIsUnpacked, Lines: []order.Part{}},
			{Parcel: 3, Status: order.ParcelIsUnpacked},
		},
		Refunds: []order.Repayment{
			{Refund: 1, Lines: []order.RefundLine{{Line: 1, Unshipped: 1, Returned: 1, Amount: 105, Freight: 5}}, Amount: 105, Reason: "late & <broken>", By: "s1", Restock: true, Settled: true, FromSeller: true, Commission: 10},
			{Refund: 2, FromSeller: true},
			{Refund: 3, Lines: []order.RefundLine{}},
		},
		Cancellation: &order.Cancellation{Reason: "buyer", By: "123456", Note: "none > some"},
		Completes:    at(50), CompletedBy: "123456", Settlement: &order.Settlement{Gross: 300, Commission: 30, Back: 10, Posted: true},
	}
	last := order.Order{ID: "0598392000003123456", Buyer: "123456", Seller: "s1", Currency: "CNY", Status: order.StatusCancelled, Cancellation: &order.Cancellation{}, Settlement: &order.Settlement{}, Lines: []order.Item{{}}, Parcels: []order.Parcel{{}}, Refunds: []order.Repayment{{}}}
	arrived := order.Order{
		ID: "0598392000004123456", Buyer: "123456", Seller: "s1", Currency: "CNY", Status: order.StatusShipped, Completes: at(59).Add(time.Microsecond),
		Lines: []order.Item{{Line: order.Line{Line: 1, Quantity: 1}, Shipped: 1}}, Parcels: []order.Parcel{{Parcel: 1, Status: order.ParcelIsDelivered}},
	}
	docs := map[string]projections.Doc[projections.Order]{}
	for i, body := range []projections.Order{
		{State: bare},
		{
			State: full, PlacedAt: at(1).Add(123456 * time.Microsecond), PaidAt: at(2).Add(time.Millisecond), ShippedAt: at(3), DeliveredAt: at(4).Add(999999999),
			CompletedAt: at(5).Add(120 * time.Millisecond), EndedAt: at(6), ClosedAt: at(7).Add(1), ChangedAt: at(8).Add(10 * time.Microsecond),
		},
		{State: arrived, PlacedAt: at(9), DeliveredAt: at(10)},
		{State: last, PlacedAt: time.Unix(0, 0), ChangedAt: time.Date(1, 1, 1, 0, 0, 0, 1, time.UTC)},
	} {
		docs["order-"+body.State.ID] = projections.Doc[projections.Order]{Stream: "order-" + body.State.ID, Revision: 1 << (10 * i), Body: body}
	}
	return docs
}

// TestOddOrdersByTheLetter pins down every byte of lists of orders. The file has
// a body a line.
func TestOddOrdersByTheLetter(t *testing.T) {
	w := newWorld(t)
	w.buyers.docs, w.index.docs = oddOrders(), oddOrders()
	var got []byte
	for _, path := range []string{"/v1/buyers/123456/orders", "/v1/buyers/123456/orders?limit=2", "/v1/sellers/s1/orders?status=shipped", "/v1/buyers/nobody/orders"} {
		rec := w.get(path)
		if length := strconv.Itoa(rec.Body.Len()); rec.Code != http.StatusOK || rec.Header().Get("Content-Length") != length {
			t.Errorf("%s: got %d and %s bytes of %s", path, rec.Code, rec.Header().Get("Content-Length"), length)
		}
		got = append(got, rec.Body.Bytes()...)
	}
	want := must2(os.ReadFile(filepath.Join("testdata", "orders.ndjson")))(t)
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Error(diff)
	}
}

func TestTimesAreWrittenAsEncodingJSONWritesThem(t *testing.T) {
	w := newWorld(t)
	w.buyers.docs = oddOrders()
	const stream = "order-0598392000001123456"
	doc := w.buyers.docs[stream]
	far := time.FixedZone("far", 14*60*60)
	for _, at := range []time.Time{
		{},
		time.Time{}.In(far), time.Time{}.Add(1), time.Unix(0, 0), time.Unix(-1, 999_999_999), time.Unix(1<<33, 1000),
		time.Date(2026, 1, 1, 0, 0, 0, 0, far), time.Date(2024, 2, 29, 23, 59, 59, 999_999_999, time.UTC),
		time.Date(2024, 2, 29, 23, 59, 59, 100_000_000, time.UTC), time.Date(2024, 2, 29, 23, 59, 59, 100_000, far),
		time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), time.Now(),
	} {
		doc.Body.PlacedAt, doc.Body.PaidAt, doc.Body.State.Deadline = at, at, at
		w.buyers.docs = map[string]projections.Doc[projections.Order]{stream: doc}
		var got struct {
			Items []struct {
				Placed   json.RawMessage `json:"placed_at"`
				Paid     json.RawMessage `json:"paid_at"`
				Deadline json.RawMessage `json:"payment_deadline"`
			} `json:"items"`
		}
		if err := json.Unmarshal(w.get("/v1/buyers/123456/orders").Body.Bytes(), &got); err != nil || len(got.Items) != 1 {
			t.Fatalf("%s: %d orders, %v", at, len(got.Items), err)
		}
		want := string(must2(json.Marshal(at.UTC()))(t))
		if placed := string(got.Items[0].Placed); placed != want {
			t.Errorf("placed at %s, want %s", placed, want)
		}
		if at.IsZero() {
			want = ""
		}
		if paid, deadline := string(got.Items[0].Paid), string(got.Items[0].Deadline); paid != want || deadline != want {
			t.Errorf("paid at %s, by %s, want %s", paid, deadline, want)
		}
	}
}

// somePage is a view that has a page at hand.
type somePage struct {
	orders
	page projections.OrderPage
}

func (p *somePage) Newest(context.Context, string, int, *projections.Cursor) (projections.OrderPage, error) {
	return p.page, nil
}

// BenchmarkPage answers with a page of 20 orders that its view has at hand.
func BenchmarkPage(b *testing.B) {
	w := newWorld(b)
	w.sells("s1", "tea:1", "绿茶 green tea", 100, "CNY")
	for range 20 {
		w.buys("123456", "tea:1", 1)
	}
	w.project()
	page, err := w.buyers.Newest(b.Context(), "123456", 20, nil)
	if err != nil || len(page.Items) != 20 {
		b.Fatalf("%d orders, %v", len(page.Items), err)
	}
	w.cfg.Buyers = &somePage{page: page}
	w.mount()
	req := httptest.NewRequestWithContext(b.Context(), http.MethodGet, "/v1/buyers/123456/orders?limit=20", http.NoBody)
	b.ReportAllocs()
	defer cputime.Counted(b, "page")()
	for b.Loop() {
		rec := httptest.NewRecorder()
		rec.Body = nil
		if w.api.ServeHTTP(rec, req); rec.Code != http.StatusOK {
			b.Fatal(rec.Code)
		}
	}
}
