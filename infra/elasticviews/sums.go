package elasticviews

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strconv"
	"time"

	"cartwright/projections"
)

// The server adds in doubles, which are exact up to 2^53. An amount is stored
// in three parts of 21 bits, the last of them with the sign, so that even as
// many as an index can have add up to less.
const (
	parts    = 3
	partBits = 21
	partMask = 1<<partBits - 1
)

// part names the field of one part of an amount.
func part(amount string, i int) string { return amount + strconv.Itoa(i) }

// A sum is an amount, or a sum of amounts, in parts.
type sum [parts]int64

func split(amount int64) sum {
	return sum{amount & partMask, amount >> partBits & partMask, amount >> (2 * partBits)}
}

func (s sum) plus(other sum) sum {
	for i := range s {
		s[i] += other[i]
	}
	return s
}

// int64 is the sum, or the largest or smallest there is where it does not fit.
func (s sum) int64() int64 {
	whole := new(big.Int)
	for i := parts - 1; i >= 0; i-- {
		whole.Lsh(whole, partBits).Add(whole, big.NewInt(s[i]))
	}
	switch {
	case whole.IsInt64():
		return whole.Int64()
	case whole.Sign() > 0:
		return math.MaxInt64
	}
	return math.MinInt64
}

// An interval is what buckets of a summary are made by.
type interval struct {
	field string                  // empty where there are none
	start func(n int64) time.Time // of the bucket that the field numbers
}

func intervalOf(name string) (interval, error) {
	switch name {
	case "":
		return interval{}, nil
	case "day":
		return interval{"day", func(n int64) time.Time { return unstamp(n * microDay) }}, nil
	case "month":
		return interval{"month", func(n int64) time.Time {
			return time.Date(int(n/12), time.Month(n%12+1), 1, 0, 0, 0, 0, time.UTC)
		}}, nil
	}
	return interval{}, fmt.Errorf("there is no interval %q", name)
}

// Summary sums a seller's orders. A seller nobody bought from has none.
func (o *Orders) Summary(ctx context.Context, q projections.SummaryQuery) (projections.Summary, error) {
	every, err := intervalOf(q.Interval)
	if err != nil {
		return projections.Summary{}, fmt.Errorf("sum the orders of seller %s: %w", q.Seller, err)
	}
	t, err := searching(ctx, o.Views, func() (*tally, error) {
		t := newTally(q.Seller, every)
		return t, o.sum(ctx, q, t)
	})
	if err != nil {
		return projections.Summary{}, fmt.Errorf("sum the orders of seller %s: %w", q.Seller, err)
	}
	return t.answer(), nil
}

// mostBuckets is how many buckets are asked for at once.
const mostBuckets = 5000

// sum reads the sums of a seller. They mostly fit one answer. Where they don't,
// all answers have to be of one moment, or an order that moves on meanwhile
// would be counted twice.
func (o *Orders) sum(ctx context.Context, q projections.SummaryQuery, t *tally) error {
	if q.Seller == "" {
		return nil
	}
	s := search{Index: o.live.searched(sales), Routing: party(q.Seller), Query: all(sold(q)...)}
	buckets, next, err := o.buckets(ctx, s, t.every, nil)
	if err != nil || next == nil {
		return t.add(buckets, err)
	}
	if s.Moment, err = o.db.c.stay(ctx, s.Index, s.Routing); err != nil {
		return err
	}
	defer func() { _ = o.db.c.leave(context.WithoutCancel(ctx), s.Moment) }() // it ends by itself, later
	for next = nil; ; {
		if buckets, next, err = o.buckets(ctx, s, t.every, next); err != nil || next == nil {
			return t.add(buckets, err)
		}
		if err := t.add(buckets, nil); err != nil {
			return err
		}
	}
}

// sold are the conditions of what a summary is for.
func sold(q projections.SummaryQuery) []any {
	filters, _ := matching(projections.OrderQuery{Seller: q.Seller, From: q.From, To: q.To})
	return filters
}

// saleSums are what one currency has in one status, and in one interval.
type saleSums struct {
	Key struct {
		Currency string `json:"currency"`
		Status   string `json:"status"`
		Start    int64  `json:"start"`
	} `json:"key"`
	Orders int64 `json:"doc_count"`

	Units0    double `json:"units0"`
	Units1    double `json:"units1"`
	Units2    double `json:"units2"`
	Gross0    double `json:"gross0"`
	Gross1    double `json:"gross1"`
	Gross2    double `json:"gross2"`
	Refunded0 double `json:"refunded0"`
	Refunded1 double `json:"refunded1"`
	Refunded2 double `json:"refunded2"`
}

type double struct {
	Value float64 `json:"value"`
}

func whole(parts ...double) sum {
	var s sum
	for i, p := range parts {
		s[i] = int64(p.Value) // it is a whole number below 2^53
	}
	return s
}

// buckets reads the next buckets, and the key to go on behind if there may be more.
func (o *Orders) buckets(ctx context.Context, s search, every interval, after json.RawMessage) ([]saleSums, json.RawMessage, error) {
	s.Aggs = map[string]any{"sums": map[string]any{"composite": composite(every, after), "aggs": summing()}}
	answer, err := o.db.c.search(ctx, s)
	if err != nil {
		return nil, nil, err
	}
	var sums struct {
		After   json.RawMessage `json:"after_key"`
		Buckets []saleSums      `json:"buckets"`
	}
	if err := json.Unmarshal(answer.Aggs["sums"], &sums); err != nil {
		return nil, nil, fmt.Errorf("read the sums: %w", err)
	}
	if len(sums.Buckets) < mostBuckets {
		sums.After = nil
	}
	return sums.Buckets, sums.After, nil
}

func composite(every interval, after json.RawMessage) map[string]any {
	fields := []struct{ name, field string }{{"currency", "currency"}, {"status", "status"}}
	if every.field != "" {
		fields = append(fields, struct{ name, field string }{"start", every.field})
	}
	var sources []any
	for _, f := range fields {
		sources = append(sources, map[string]any{f.name: map[string]any{"terms": map[string]any{"field": f.field}}})
	}
	c := map[string]any{"size": mostBuckets, "sources": sources}
	if after != nil {
		c["after"] = after
	}
	return c
}

func summing() map[string]any {
	sums := map[string]any{}
	for _, amount := range []string{"units", "gross", "refunded"} {
		for i := range parts {
			sums[part(amount, i)] = map[string]any{"sum": map[string]any{"field": part(amount, i)}}
		}
	}
	return sums
}

// A tally is a summary in the making.
type tally struct {
	seller  string
	every   interval
	total   map[string]*sheet
	buckets map[string]map[int64]*sheet
}

// A sheet is what one currency has in one interval.
type sheet struct {
	orders                 int64
	units, gross, refunded sum
	byStatus               map[string]int64
}

func newTally(seller string, every interval) *tally {
	return &tally{seller: seller, every: every, total: map[string]*sheet{}, buckets: map[string]map[int64]*sheet{}}
}

func (t *tally) add(buckets []saleSums, err error) error {
	for _, b := range buckets {
		enter(t.total, b.Key.Currency, b)
		if t.every.field == "" {
			continue
		}
		if t.buckets[b.Key.Currency] == nil {
			t.buckets[b.Key.Currency] = map[int64]*sheet{}
		}
		enter(t.buckets[b.Key.Currency], b.Key.Start, b)
	}
	return err
}

func enter[K comparable](sheets map[K]*sheet, key K, b saleSums) {
	to, ok := sheets[key]
	if !ok {
		to = &sheet{byStatus: map[string]int64{}}
		sheets[key] = to
	}
	to.orders += b.Orders
	to.byStatus[b.Key.Status] += b.Orders
	to.units = to.units.plus(whole(b.Units0, b.Units1, b.Units2))
	to.gross = to.gross.plus(whole(b.Gross0, b.Gross1, b.Gross2))
	to.refunded = to.refunded.plus(whole(b.Refunded0, b.Refunded1, b.Refunded2))
}

func (t *tally) answer() projections.Summary {
	answer := projections.Summary{Seller: t.seller, ByCurrency: map[string]projections.Sums{}}
	for currency, sheet := range t.total {
		answer.ByCurrency[currency] = sheet.answer()
	}
	if t.every.field == "" {
		return answer
	}
	answer.Buckets = map[string][]projections.Bucket{}
	for currency, sheets := range t.buckets {
		for n, sheet := range sheets {
			answer.Buckets[currency] = append(answer.Buckets[currency], projections.Bucket{Start: t.every.start(n), Sums: sheet.answer()})
		}
		slices.SortFunc(answer.Buckets[currency], func(a, b projections.Bucket) int { return a.Start.Compare(b.Start) })
	}
	return answer
}

func (s *sheet) answer() projections.Sums {
	return projections.Sums{
		Orders: s.orders, Units: s.units.int64(), Gross: s.gross.int64(), Refunded: s.refunded.int64(), ByStatus: s.byStatus,
	}
}
