package readapi

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"cartwright/domain/money"
	"cartwright/projections"
)

// summaryBody is what a seller sold.
type summaryBody struct {
	SellerID string `json:"seller_id"`
	sumsBody
	OtherCurrencies []sumsBody    `json:"other_currencies"`
	Buckets         *[]bucketBody `json:"buckets,omitempty"` // only when an interval is asked for; days without orders have none
}

type sumsBody struct {
	Currency *string          `json:"currency"`
	Orders   int64            `json:"orders"`
	Units    int64            `json:"units"`
	Gross    sumBody          `json:"gross"`
	Refunded sumBody          `json:"refunded"`
	ByStatus map[string]int64 `json:"by_status"`
}

// sumBody is money, or nothing at all of no currency.
type sumBody struct {
	Amount   int64   `json:"amount"`
	Currency *string `json:"currency"`
}

type bucketBody struct {
	Start time.Time `json:"start"`
	sumsBody
}

func (a *api) summary(ctx context.Context, r *request) (answer, error) {
	q := projections.SummaryQuery{Seller: r.id, Interval: r.oneOf("interval", "day", "month")}
	q.From, q.To = r.span()
	currency, asked := r.value("currency")
	if asked && !money.Valid(currency) {
		r.fault("currency", "This is an ISO-4217 code.")
	}
	if err := r.check(); err != nil {
		return answer{}, err
	}
	found, err := seen(ctx, a, viewOrders, a.Index, of(r.token, "order"), func() (projections.Summary, error) {
		return a.Index.Summary(ctx, q)
	})
	if err != nil {
		return answer{}, err
	}
	if !asked {
		currency = mostUsed(found)
	}
	return answer{body: tellSummary(found, currency, q.Interval != "")}, nil
}

// mostUsed is the currency with the most orders, of several the first by name.
func mostUsed(s projections.Summary) string {
	currencies := slices.Sorted(maps.Keys(s.ByCurrency))
	if len(currencies) == 0 {
		return ""
	}
	return slices.MaxFunc(currencies, func(a, b string) int { return cmp.Compare(s.ByCurrency[a].Orders, s.ByCurrency[b].Orders) })
}

func tellSummary(s projections.Summary, currency string, bucketed bool) summaryBody {
	told := summaryBody{SellerID: s.Seller, sumsBody: tellSums(currency, s.ByCurrency[currency]), OtherCurrencies: []sumsBody{}}
	for _, other := range slices.Sorted(maps.Keys(s.ByCurrency)) {
		if other != currency {
			told.OtherCurrencies = append(told.OtherCurrencies, tellSums(other, s.ByCurrency[other]))
		}
	}
	if bucketed {
		buckets := []bucketBody{}
		for _, b := range s.Buckets[currency] {
			buckets = append(buckets, bucketBody{b.Start.UTC(), tellSums(currency, b.Sums)})
		}
		told.Buckets = &buckets
	}
	return told
}

func tellSums(currency string, s projections.Sums) sumsBody {
	var in *string
	if currency != "" {
		in = &currency
	}
	byStatus := make(map[string]int64, len(statuses))
	for _, status := range statuses {
		byStatus[status] = s.ByStatus[status]
	}
	return sumsBody{
		Currency: in, Orders: s.Orders, Units: s.Units,
		Gross: sumBody{s.Gross, in}, Refunded: sumBody{s.Refunded, in}, ByStatus: byStatus,
	}
}
