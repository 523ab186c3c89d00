package sqliteviews

import (
	"context"
	"database/sql"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"cartwright/projections"
)

// half is where an amount is cut in two: a sum of halves overflows only after
// nine thousand million orders, whatever their amounts.
const half = 1_000_000_000

// A split is a sum of amounts in halves.
type split struct{ hi, lo int64 }

func splitOf(amount int64) split { return split{amount / half, amount % half} }

func (s split) plus(other split, sign int64) split {
	return split{s.hi + sign*other.hi, s.lo + sign*other.lo}
}

// int64 is the sum, or the largest there is where it does not fit.
func (s split) int64() int64 {
	hi, lo := s.hi+s.lo/half, s.lo%half
	if hi > (math.MaxInt64-lo)/half {
		return math.MaxInt64
	}
	return hi*half + lo
}

// A sumKey names the orders that are summed up together.
type sumKey struct {
	seller, currency, status string
	day                      int64
}

type sums struct {
	orders                 int64
	units, gross, refunded split
}

// deltas are by how much a batch moves the sums.
type deltas map[sumKey]*sums

func (d deltas) add(f projections.Facts, sign int64) {
	if f.Status == "" {
		return
	}
	key := sumKey{f.Seller, f.Currency, f.Status, dayOf(f.PlacedAt)}
	s, ok := d[key]
	if !ok {
		s = &sums{}
		d[key] = s
	}
	s.orders += sign
	s.units = s.units.plus(splitOf(f.Units), sign)
	s.gross = s.gross.plus(splitOf(f.Gross), sign)
	s.refunded = s.refunded.plus(splitOf(f.Refunded), sign)
}

// rows are the deltas that move anything.
func (d deltas) rows() [][]any {
	rows := make([][]any, 0, len(d))
	for k, s := range d {
		if *s == (sums{}) {
			continue
		}
		rows = append(rows, []any{
			k.seller, k.currency, k.day, k.status, s.orders, s.units.hi, s.units.lo,
			s.gross.hi, s.gross.lo, s.refunded.hi, s.refunded.lo,
		})
	}
	return rows
}

const microDay = int64(24 * time.Hour / time.Microsecond)

// dayOf counts UTC days from 1970.
func dayOf(t time.Time) int64 { return floorDay(stamp(t)) }

func floorDay(at int64) int64 {
	day := at / microDay
	if at%microDay < 0 {
		day--
	}
	return day
}

// A span is what a summary reads: whole days from the sums, and the parts of
// days at its ends from the orders.
type span struct {
	first, last int64 // days, last not included
	parts       []part
}

type part struct{ day, from, to int64 }

func spanOf(q projections.SummaryQuery) span {
	s := span{first: math.MinInt64, last: math.MaxInt64}
	from, to := int64(math.MinInt64), int64(math.MaxInt64)
	if !q.From.IsZero() {
		from = bound(q.From)
		s.first = floorDay(from + microDay - 1)
	}
	if !q.To.IsZero() {
		to = bound(q.To)
		s.last = floorDay(to)
	}
	if s.first > s.last {
		return span{parts: []part{{s.last, from, to}}} // within one day
	}
	if !q.From.IsZero() && from < s.first*microDay {
		s.parts = append(s.parts, part{s.first - 1, from, s.first * microDay})
	}
	if !q.To.IsZero() && to > s.last*microDay {
		s.parts = append(s.parts, part{s.last, s.last * microDay, to})
	}
	return s
}

// Summary sums a seller's orders. A seller nobody bought from has none.
func (o *Orders) Summary(ctx context.Context, q projections.SummaryQuery) (projections.Summary, error) {
	answer, err := reading(o.Views, func(g *Generation[projections.Order]) (projections.Summary, error) { return summary(ctx, g, q) })
	if err != nil {
		return projections.Summary{}, fmt.Errorf("sum the orders of seller %s: %w", q.Seller, err)
	}
	return answer, nil
}

func summary(ctx context.Context, g *Generation[projections.Order], q projections.SummaryQuery) (projections.Summary, error) {
	start, err := interval(q.Interval)
	if err != nil {
		return projections.Summary{}, err
	}
	// One moment, so that days and parts of days agree.
	return look(ctx, g, func(from moment, years []int) (projections.Summary, error) {
		t := &tally{seller: q.Seller, start: start, total: map[string]*sheet{}, buckets: map[string]map[int64]*sheet{}}
		if err := t.read(ctx, from, g, years, spanOf(q)); err != nil {
			return projections.Summary{}, err
		}
		return t.answer(), nil
	})
}

// interval gives the first day of the interval that a day lies in, or nil
// where none is asked for.
func interval(name string) (func(day int64) int64, error) {
	switch name {
	case "":
		return nil, nil
	case "day":
		return func(day int64) int64 { return day }, nil
	case "month":
		return func(day int64) int64 {
			at := midnight(day)
			return dayOf(time.Date(at.Year(), at.Month(), 1, 0, 0, 0, 0, time.UTC))
		}, nil
	}
	return nil, fmt.Errorf("there is no interval %q", name)
}

func midnight(day int64) time.Time { return unstamp(day * microDay) }

// A tally is a summary in the making.
type tally struct {
	seller  string
	start   func(day int64) int64
	total   map[string]*sheet
	buckets map[string]map[int64]*sheet
}

// A sheet is what one currency has in one interval.
type sheet struct {
	sums
	byStatus map[string]int64
}

func (t *tally) read(ctx context.Context, from moment, g *Generation[projections.Order], years []int, s span) error {
	if s.first < s.last {
		text := `SELECT currency, status, day, orders, units_hi, units_lo, gross_hi, gross_lo, refunded_hi, refunded_lo
			FROM ` + g.table + `_sums WHERE seller = ? AND day >= ? AND day < ?`
		if err := ask(ctx, from, text, t.scan, t.seller, s.first, s.last); err != nil {
			return err
		}
	}
	for _, p := range s.parts {
		tables := []string{g.table}
		if year := midnight(p.day).Year(); slices.Contains(years, year) {
			tables = append(tables, yearTable(g.table, year))
		}
		for _, table := range tables {
			text := `SELECT currency, status, ?, count(*), ` + halves("units", "gross", "refunded") + `
				FROM ` + table + ` WHERE seller = ? AND placed_at >= ? AND placed_at < ? GROUP BY currency, status`
			if err := ask(ctx, from, text, t.scan, p.day, t.seller, p.from, p.to); err != nil {
				return err
			}
		}
	}
	return nil
}

// halves writes the sums of columns in halves, as they are kept a day.
func halves(columns ...string) string {
	terms := make([]string, len(columns))
	for i, column := range columns {
		terms[i] = fmt.Sprintf("sum(%s / %d), sum(%s %% %d)", column, half, column, half)
	}
	return strings.Join(terms, ", ")
}

func (t *tally) scan(rows *sql.Rows) error {
	var currency, status string
	var day int64
	var s sums
	err := rows.Scan(&currency, &status, &day, &s.orders, &s.units.hi, &s.units.lo,
		&s.gross.hi, &s.gross.lo, &s.refunded.hi, &s.refunded.lo)
	if err != nil || s.orders == 0 {
		return err
	}
	add(t.total, currency, status, s)
	if t.start != nil {
		if t.buckets[currency] == nil {
			t.buckets[currency] = map[int64]*sheet{}
		}
		add(t.buckets[currency], t.start(day), status, s)
	}
	return nil
}

func add[K comparable](sheets map[K]*sheet, key K, status string, s sums) {
	to, ok := sheets[key]
	if !ok {
		to = &sheet{byStatus: map[string]int64{}}
		sheets[key] = to
	}
	to.byStatus[status] += s.orders
	to.orders += s.orders
	to.units = to.units.plus(s.units, +1)
	to.gross = to.gross.plus(s.gross, +1)
	to.refunded = to.refunded.plus(s.refunded, +1)
}

func (t *tally) answer() projections.Summary {
	answer := projections.Summary{Seller: t.seller, ByCurrency: map[string]projections.Sums{}}
	for currency, sheet := range t.total {
		answer.ByCurrency[currency] = sheet.answer()
	}
	if t.start == nil {
		return answer
	}
	answer.Buckets = map[string][]projections.Bucket{}
	for currency, days := range t.buckets {
		for day, sheet := range days {
			answer.Buckets[currency] = append(answer.Buckets[currency], projections.Bucket{Start: midnight(day), Sums: sheet.answer()})
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
