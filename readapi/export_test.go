package readapi_test

import (
	"bufio"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/go-cmp/cmp"

	"cartwright/domain/account"
	"cartwright/infra/httpedge"
	"cartwright/projections"
	"cartwright/readapi"
)

// A ledger is accounts of as many entries as wanted, some of which it may lack.
type ledger struct {
	readapi.Accounts
	entries  int64
	currency string
	entry    func(number int64) projections.Entry // nil: one minor unit each
	lacks    func(number int64) bool              // nil: nothing
	fails    func(ctx context.Context, page int) error
	limits   []int // that were asked for
}

func (l *ledger) Get(_ context.Context, streams []string) (map[string]projections.Doc[projections.Account], error) {
	return map[string]projections.Doc[projections.Account]{
		streams[0]: {Stream: streams[0], Revision: 1, Body: projections.Account{Currency: l.currency, Entries: l.entries}},
	}, nil
}

func (l *ledger) Entries(ctx context.Context, id string, before int64, limit int) (page projections.EntryPage, err error) {
	l.limits = append(l.limits, limit)
	if l.fails != nil {
		if err := l.fails(ctx, len(l.limits)); err != nil {
			return page, err
		}
	}
	if before == 0 {
		before = l.entries + 1
	}
	for n := before - 1; n > 0; n-- {
		if l.lacks != nil && l.lacks(n) {
			continue
		}
		if len(page.Items) == limit {
			page.Next = page.Items[limit-1].Number
			break
		}
		e := projections.Entry{Entry: account.Entry{Number: n, Kind: account.KindCredit, Amount: 1, Journal: "j"}, Balance: n, At: today}
		if l.entry != nil {
			e = l.entry(n)
			e.Number = n
		}
		e.Account = id
		page.Items = append(page.Items, e)
	}
	return page, nil
}

// keeps puts a ledger into the world in the place of its accounts.
func (w *world) keeps(l *ledger) {
	w.t.Helper()
	l.Accounts = &w.accounts
	if l.currency == "" {
		l.currency = "CNY"
	}
	w.cfg.Accounts = l
	w.mount()
}

// file is an export as a program reads it: its head, and its rows by columns.
func (w *world) file(path string) (head http.Header, rows []map[string]string) {
	w.t.Helper()
	rec := w.get(path)
	if rec.Code != http.StatusOK {
		w.t.Fatalf("%s: got %d %s\n%s", path, rec.Code, rec.Body, &w.log)
	}
	all := must2(csv.NewReader(rec.Body).ReadAll())(w.t)
	for _, cells := range all[1:] {
		row := map[string]string{}
		for i, column := range all[0] {
			row[column] = cells[i]
		}
		rows = append(rows, row)
	}
	return rec.Header(), rows
}

func TestAStatementAsAFile(t *testing.T) {
	w := newWorld(t)
	w.sells("s1", "tea:1", "Tea", 100, "CNY")
	w.funds(10_000)
	id := w.buys("123456", "tea:1", 1)
	w.pays(id)
	w.project()
	rec := w.get("/v1/accounts/123456/statement.csv")
	want := "entry,at,kind,amount_minor,amount,balance_minor,balance,currency,journal,counterparty,reference\r\n" +
		"2,AT,capture,-105,-1.05,9895,98.95,CNY,capture-ID,platform.escrow.CNY,ID\r\n" +
		"1,AT,deposit,10000,100.00,10000,100.00,CNY,JOURNAL,,bank\r\n"
	lines := strings.Split(rec.Body.String(), "\r\n")
	if len(lines) != 4 {
		t.Fatalf("got %d %q", rec.Code, rec.Body)
	}
	first, second := strings.Split(lines[1], ","), strings.Split(lines[2], ",")
	want = strings.Replace(strings.Replace(want, "AT", first[1], 1), "AT", second[1], 1)
	want = strings.NewReplacer("ID", string(id), "JOURNAL", second[8]).Replace(want)
	if diff := cmp.Diff(want, rec.Body.String()); diff != "" {
		t.Error(diff)
	}
	if at, err := time.Parse(time.RFC3339, first[1]); err != nil || at.Before(today) {
		t.Errorf("the time of an entry is %q", first[1])
	}
	for name, want := range map[string]string{
		"Content-Type": "text/csv; charset=utf-8", "Content-Disposition": `attachment; filename="statement-123456.csv"`,
		"Cache-Control": "private, no-cache", "ETag": "",
	} {
		if got := rec.Header().Get(name); got != want {
			t.Errorf("%s is %q", name, got)
		}
	}
}

func TestSettlementsAsAFile(t *testing.T) {
	w, first, second := bazaar(t)
	head, rows := w.file("/v1/sellers/s1/settlements.csv?currency=CNY")
	if got := head.Get("Content-Disposition"); got != `attachment; filename="settlements-s1-CNY.csv"` {
		t.Errorf("it is an %s", got)
	}
	if len(rows) != 8 {
		t.Fatalf("got %v", rows)
	}
	for i, want := range map[int]map[string]string{
		0: {"entry": "8", "kind": "other", "order_id": "", "amount_minor": "-500", "amount": "-5.00", "balance": "-4.05", "currency": "CNY"},
		5: {"entry": "3", "kind": "refund", "order_id": string(second), "amount": "-0.95", "journal": "clawback-" + string(second) + "/1"},
		7: {"entry": "1", "kind": "settlement", "order_id": string(first), "amount": "0.95", "balance_minor": "95", "journal": "settle-" + string(first)},
	} {
		for column, cell := range want {
			if rows[i][column] != cell {
				t.Errorf("row %d: %s is %q, want %q", i, column, rows[i][column], cell)
			}
		}
	}
	if _, rows := w.file("/v1/sellers/nobody/settlements.csv?currency=CNY"); len(rows) != 0 {
		t.Errorf("nobody earned %v", rows)
	}
}

func TestAFileHasEveryEntryAndHoldsFewAtOnce(t *testing.T) {
	w := newWorld(t)
	for entries, pages := range map[int64]int{0: 1, 1: 1, 1000: 1, 1001: 2, 2500: 3} {
		l := &ledger{entries: entries}
		w.keeps(l)
		for _, path := range []string{"/v1/accounts/a/statement.csv", "/v1/sellers/a/settlements.csv?currency=CNY"} {
			l.limits = nil
			_, rows := w.file(path)
			if int64(len(rows)) != entries || len(l.limits) != pages {
				t.Errorf("%s: %d of %d entries came in %d pages", path, len(rows), entries, len(l.limits))
			}
			for i, row := range rows {
				if n := strconv.FormatInt(entries-int64(i), 10); row["entry"] != n || row["balance_minor"] != n {
					t.Fatalf("row %d is %v", i, row)
				}
			}
			for _, limit := range l.limits {
				if limit > 1000 {
					t.Errorf("%d were asked for at once", limit)
				}
			}
		}
	}
}

func TestAmountsHaveTheDigitsOfTheirCurrency(t *testing.T) {
	w := newWorld(t)
	amounts := []int64{0, 5, -5, 99, -100, 123456, math.MaxInt64, math.MinInt64}
	for currency, want := range map[string][]string{
		"CNY": {"0.00", "0.05", "-0.05", "0.99", "-1.00", "1234.56", "92233720368547758.07", "-92233720368547758.08"},
		"JPY": {"0", "5", "-5", "99", "-100", "123456", "9223372036854775807", "-9223372036854775808"},
		"KWD": {"0.000", "0.005", "-0.005", "0.099", "-0.100", "123.456", "9223372036854775.807", "-9223372036854775.808"},
		"XXX": {"", "", "", "", "", "", "", ""}, // of no currency any more
	} {
		w.keeps(&ledger{entries: int64(len(amounts)), currency: currency, entry: func(n int64) projections.Entry {
			return projections.Entry{Entry: account.Entry{Amount: amounts[len(amounts)-int(n)]}, Balance: amounts[len(amounts)-int(n)]}
		}})
		_, rows := w.file("/v1/accounts/a/statement.csv")
		for i, row := range rows {
			minor := strconv.FormatInt(amounts[i], 10)
			if row["amount"] != want[i] || row["balance"] != want[i] || row["amount_minor"] != minor || row["balance_minor"] != minor || row["currency"] != currency {
				t.Errorf("%d %s is told as %v", amounts[i], currency, row)
			}
		}
	}
}

func TestACellIsNeverAFormula(t *testing.T) {
	w := newWorld(t)
	texts := map[string]string{
		"=1+1": "'=1+1", "+1": "'+1", "-1": "'-1", "@sum": "'@sum", "\tx": "'\tx", "\nx": "'\nx", "＝1": "'＝1",
		"": "", "bank": "bank", "1=1": "1=1", "'=1": "'=1", " =1": " =1", `say "no", twice`: `say "no", twice`, "一\n二": "一\n二",
	}
	for text, want := range texts {
		w.keeps(&ledger{entries: 1, entry: func(int64) projections.Entry {
			return projections.Entry{Entry: account.Entry{Amount: -1, Journal: text, Counterparty: text, Reference: text}, Balance: -1}
		}})
		_, rows := w.file("/v1/accounts/a/statement.csv")
		for _, column := range []string{"journal", "counterparty", "reference"} {
			if rows[0][column] != want {
				t.Errorf("%q is the %s %q", text, column, rows[0][column])
			}
		}
		if rows[0]["amount_minor"] != "-1" || rows[0]["amount"] != "-0.01" {
			t.Errorf("an amount is no text: %v", rows[0])
		}
	}
}

// download takes an export over a connection, and gives what came with how it ended.
func (w *world) download(path string) (status, size int, err error) {
	w.t.Helper()
	srv := httptest.NewUnstartedServer(w.api)
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	srv.Start()
	defer srv.Close() // waits for the handler, so that its log is ours to read
	req := must2(http.NewRequestWithContext(w.t.Context(), http.MethodGet, srv.URL+path, http.NoBody))(w.t)
	resp, err := srv.Client().Do(req)
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, len(text), err
}

func TestHalfAFileDoesNotLookWhole(t *testing.T) {
	w := newWorld(t)
	broken := errors.New("hunter2")
	for fails := range 4 { // the first page, the second, the third, none
		w.log.Reset()
		w.keeps(&ledger{entries: 2500, fails: func(_ context.Context, page int) error {
			if page == fails+1 {
				return broken
			}
			return nil
		}})
		status, size, err := w.download("/v1/accounts/a/statement.csv")
		logged := strings.Contains(w.log.String(), "hunter2") && strings.Contains(w.log.String(), "level=ERROR")
		switch {
		case fails == 0 && (status != http.StatusInternalServerError || err != nil || !logged):
			t.Errorf("before anything was sent: %d, %v; logged %s", status, err, &w.log)
		case (fails == 1 || fails == 2) && (err == nil || !logged || !strings.Contains(w.log.String(), "export was cut off")):
			t.Errorf("page %d failed: %d with %d bytes came, %v; logged %s", fails+1, status, size, err, &w.log)
		case fails == 3 && (status != http.StatusOK || err != nil || w.log.Len() > 0):
			t.Errorf("nothing failed: %d, %v; logged %s", status, err, &w.log)
		}
	}
}

func TestAFileWithAGapIsCutOff(t *testing.T) {
	w := newWorld(t)
	for lacks, sent := range map[int64]bool{2500: true, 2400: false, 1200: false, 1: false, 0: true} {
		w.log.Reset()
		w.keeps(&ledger{entries: 2500, lacks: func(n int64) bool { return n == lacks }})
		status, _, err := w.download("/v1/accounts/a/statement.csv")
		if whole := status == http.StatusOK && err == nil; whole != sent {
			t.Errorf("without entry %d: %d, %v", lacks, status, err)
		}
		if logged := strings.Contains(w.log.String(), "export was cut off"); logged == sent {
			t.Errorf("without entry %d: logged %s", lacks, &w.log)
		}
	}
	w.keeps(&ledger{entries: 5, lacks: func(int64) bool { return true }})
	w.refused(w.get("/v1/accounts/a/statement.csv"), http.StatusServiceUnavailable, "not_caught_up")
}

func TestAReaderWhoLeavesMidFileIsNoFaultOfOurs(t *testing.T) {
	w := newWorld(t)
	w.keeps(&ledger{entries: math.MaxInt32})
	srv := httptest.NewServer(w.api)
	req := must2(http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+"/v1/accounts/a/statement.csv", http.NoBody))(t)
	resp, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = bufio.NewReader(resp.Body).ReadString('\n'); err != nil {
		t.Error(err)
	}
	_ = resp.Body.Close()
	srv.Close()
	if log := w.log.String(); !strings.Contains(log, "level=WARN") || !strings.Contains(log, "export was cut off") {
		t.Errorf("logged %s", log)
	}
}

func TestAnExportMayTakeLongerThanARequest(t *testing.T) {
	w := newWorld(t)
	requests := make(chan context.Context, 1)
	l := &ledger{entries: 2500, fails: func(ctx context.Context, page int) error {
		if page == 1 {
			return nil
		}
		request := <-requests
		<-request.Done() // its time is over
		requests <- request
		if _, bounded := ctx.Deadline(); !bounded {
			return errors.New("a page has no bound")
		}
		return ctx.Err()
	}}
	w.keeps(l)
	r := must2(httpedge.New(httpedge.Config{Log: slog.New(slog.DiscardHandler), Timeout: 20 * time.Millisecond}))(t)
	r.Use(func(c *gin.Context) { requests <- c.Request.Context() })
	if err := readapi.Routes(r, w.cfg); err != nil {
		t.Fatal(err)
	}
	w.api = r
	if _, rows := w.file("/v1/accounts/a/statement.csv"); len(rows) != 2500 {
		t.Errorf("%d rows came", len(rows))
	}
	if err := (<-requests).Err(); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the request ended by %v", err)
	}
}

func TestAFileIsCalledSoThatItCanBeKept(t *testing.T) {
	w := newWorld(t)
	w.keeps(&ledger{entries: 1})
	for path, name := range map[string]string{
		"/v1/accounts/seller.s:1.CNY/statement.csv":      "statement-seller.s_1.CNY.csv",
		"/v1/sellers/s:1/settlements.csv?currency=CNY":   "settlements-s_1-CNY.csv",
		"/v1/accounts/platform.escrow.CNY/statement.csv": "statement-platform.escrow.CNY.csv",
	} {
		head, _ := w.file(path)
		if got, want := head.Get("Content-Disposition"), fmt.Sprintf("attachment; filename=%q", name); got != want {
			t.Errorf("%s: it is an %s", path, got)
		}
	}
}
