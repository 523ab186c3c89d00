package readapi

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gin-gonic/gin"

	"cartwright/domain/account"
	"cartwright/domain/money"
	"cartwright/infra/problem"
	"cartwright/projections"
)

const (
	exportPage = 1000             // entries in memory at once
	exportTime = 30 * time.Second // to read a page, and as long again to hand it over
)

// A sheet is all entries of an account as a file, newest first.
type sheet struct {
	name    string // of the file
	account string
	columns []string
	row     func(projections.Entry) []string
	first   projections.EntryPage
}

// errGone says that nobody takes the file any more.
var errGone = errors.New("the reader does not take it")

// export makes a route that answers with a file. Until its first page is there,
// it fails as other queries do. Then all that can be done about a failure is to
// cut the connection: whatever ends in order looks complete.
func (a *api) export(open func(context.Context, *request) (sheet, error), parameters ...string) gin.HandlerFunc {
	return problem.Handler(a.Log, func(c *gin.Context) error {
		in, err := read(c, parameters)
		if err != nil {
			return err
		}
		s, err := open(c.Request.Context(), in)
		if errors.Is(err, projections.ErrUnavailable) {
			return away(err)
		}
		if err != nil {
			return err
		}
		// A file is as long as its account, so its pages are bounded in time, and
		// not the request. A reader who has gone shows in what is written.
		ctx := context.WithoutCancel(c.Request.Context())
		if err := a.send(ctx, c.Writer, s); err != nil {
			level := slog.LevelError
			if errors.Is(err, errGone) {
				level = slog.LevelWarn
			}
			a.Log.Log(ctx, level, "export was cut off", "route", c.FullPath(), "account", s.account, "err", err)
			panic(http.ErrAbortHandler)
		}
		return nil
	})
}

func (a *api) send(ctx context.Context, w http.ResponseWriter, s sheet) error {
	head := w.Header()
	head.Set("Content-Type", "text/csv; charset=utf-8")
	head.Set("Content-Disposition", `attachment; filename="`+strings.ReplaceAll(s.name, ":", "_")+`"`)
	head.Set("Cache-Control", "private, no-cache")
	to := http.NewResponseController(w)
	rows := csv.NewWriter(w)
	rows.UseCRLF = true // RFC 4180
	if err := handOver(to, rows, [][]string{s.columns}); err != nil {
		return err
	}
	for page, last := s.first, int64(0); ; {
		lines, err := s.lines(page, &last)
		if err != nil {
			return err
		}
		if err = handOver(to, rows, lines); err != nil {
			return err
		}
		if page.Next == 0 {
			return patience(to, time.Time{}) // the connection may serve other requests
		}
		if page, err = a.nextPage(ctx, s.account, page.Next); err != nil {
			return err
		}
	}
}

// lines are the rows of a page. Entries are numbered without gaps down to the
// first, so what the view lacks shows (TestAFileWithAGapIsCutOff).
func (s sheet) lines(page projections.EntryPage, last *int64) ([][]string, error) {
	lines := make([][]string, 0, len(page.Items))
	for _, e := range page.Items {
		if *last != 0 && e.Number != *last-1 {
			return nil, fmt.Errorf("entry %d of account %s comes after entry %d", e.Number, s.account, *last)
		}
		*last = e.Number
		lines = append(lines, s.row(e))
	}
	if page.Next == 0 && *last > 1 {
		return nil, fmt.Errorf("the entries of account %s end at number %d", s.account, *last)
	}
	return lines, nil
}

// handOver writes rows, to a reader who takes them in time.
func handOver(to *http.ResponseController, rows *csv.Writer, lines [][]string) error {
	if err := patience(to, time.Now().Add(exportTime)); err != nil {
		return err
	}
	if err := rows.WriteAll(lines); err != nil { // and flushes
		return fmt.Errorf("%w: %w", errGone, err)
	}
	return nil
}

// patience bounds how long a reader may take, where there is a connection behind it.
func patience(to *http.ResponseController, until time.Time) error {
	if err := to.SetWriteDeadline(until); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return fmt.Errorf("%w: %w", errGone, err)
	}
	return nil
}

func (a *api) nextPage(ctx context.Context, id string, before int64) (projections.EntryPage, error) {
	ctx, cancel := context.WithTimeout(ctx, exportTime)
	defer cancel()
	page, err := a.Accounts.Entries(ctx, id, before, exportPage)
	if err != nil {
		return page, fmt.Errorf("read entries of account %s before %d: %w", id, before, err)
	}
	return page, nil
}

// statementFile is an account's statement.
func (a *api) statementFile(ctx context.Context, r *request) (sheet, error) {
	s := sheet{
		name: "statement-" + r.id + ".csv", account: r.id,
		columns: []string{
			"entry", "at", "kind", "amount_minor", "amount", "balance_minor", "balance", "currency", "journal", "counterparty", "reference",
		},
	}
	doc, err := a.findAccount(ctx, r, func() (err error) {
		s.first, err = a.Accounts.Entries(ctx, r.id, 0, exportPage)
		return err
	})
	if err != nil {
		return s, err
	}
	if len(s.first.Items) == 0 && doc.Body.Entries > 0 {
		return s, behind()
	}
	currency := doc.Body.Currency
	s.row = func(e projections.Entry) []string {
		return []string{
			strconv.FormatInt(e.Number, 10), stamp(e.At), string(e.Kind),
			strconv.FormatInt(e.Amount, 10), decimal(e.Amount, currency), strconv.FormatInt(e.Balance, 10), decimal(e.Balance, currency), currency,
			tame(e.Journal), tame(e.Counterparty), tame(e.Reference),
		}
	}
	return s, nil
}

// settlementsFile is a seller's settlement statement.
func (a *api) settlementsFile(ctx context.Context, r *request) (sheet, error) {
	currency := r.currency()
	if err := r.check(); err != nil {
		return sheet{}, err
	}
	id := account.Seller(r.id, currency)
	first, err := a.sellersEntries(ctx, r.token, id, 0, exportPage)
	return sheet{
		name: "settlements-" + r.id + "-" + currency + ".csv", account: id, first: first,
		columns: []string{
			"entry", "at", "kind", "order_id", "amount_minor", "amount", "balance_minor", "balance", "currency", "journal",
		},
		row: func(e projections.Entry) []string {
			kind, order := settledFor(e)
			return []string{
				strconv.FormatInt(e.Number, 10), stamp(e.At), kind, order,
				strconv.FormatInt(e.Amount, 10), decimal(e.Amount, currency), strconv.FormatInt(e.Balance, 10), decimal(e.Balance, currency), currency,
				tame(e.Journal),
			}
		},
	}, err
}

func stamp(at time.Time) string { return at.UTC().Format(time.RFC3339Nano) }

// decimal writes minor units with the digits of their currency. Of one that is
// not known any more nobody knows the digits, and the minor units stand beside it.
func decimal(amount int64, currency string) string {
	digits, ok := money.Exponent(currency)
	if !ok {
		return ""
	}
	text, sign := strconv.FormatInt(amount, 10), ""
	if amount < 0 {
		text, sign = text[1:], "-"
	}
	if digits == 0 {
		return sign + text
	}
	if short := digits + 1 - len(text); short > 0 {
		text = strings.Repeat("0", short) + text
	}
	point := len(text) - digits
	return sign + text[:point] + "." + text[point:]
}

// tame keeps a spreadsheet from taking somebody's text for a formula.
func tame(text string) string {
	if first, size := utf8.DecodeRuneInString(text); size > 0 && strings.ContainsRune("=+-@\t\r\n＝＋－＠", first) {
		return "'" + text
	}
	return text
}
