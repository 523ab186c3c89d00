package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/go-cmp/cmp"

	"cartwright/commands"
	"cartwright/domain"
	"cartwright/domain/account"
	"cartwright/domain/event"
	"cartwright/domain/inventory"
	"cartwright/domain/money"
	"cartwright/domain/order"
	"cartwright/domain/orderid"
	"cartwright/domain/personal"
	"cartwright/infra/keyring"
	"cartwright/infra/memstore"
	"cartwright/infra/problem"
	"cartwright/writeapi"
)

// aLine is a made-up line of a file. Each part may be replaced in a test.
type aLine struct {
	id, status                             string
	purchased, approved, shipped, delivery string // "" is null
	items                                  string
}

func (l aLine) String() string {
	null := func(s string) string {
		if s == "" {
			return "null"
		}
		return `"` + s + `"`
	}
	return fmt.Sprintf(`{"order_id":%q,"buyer_id":"b-%s","status":%q,"purchased_at":%s,"approved_at":%s,"shipped_at":%s,"delivered_at":%s,"items":[%s]}`,
		l.id, l.id, l.status, null(l.purchased), null(l.approved), null(l.shipped), null(l.delivery), l.items)
}

func anItem(line int, product, seller string, price, freight int, category string) string {
	if category != "null" {
		category = `"` + category + `"`
	}
	return fmt.Sprintf(`{"line":%d,"product_id":%q,"seller_id":%q,"price_minor":%d,"freight_minor":%d,"category":%s}`,
		line, product, seller, price, freight, category)
}

const (
	day1 = "2017-03-01T10:00:00Z"
	day2 = "2017-03-02T10:00:00Z"
	day3 = "2017-03-03T10:00:00Z"
	day4 = "2017-03-04T10:00:00Z"
)

// theFile has an order of every status, two of them with several sellers, and
// something odd about most.
func theFile() []aLine {
	pen := anItem(1, "pen", "s1", 500, 120, "office")
	return []aLine{
		{"o1", "delivered", day1, day2, day3, day4, pen},
		{"o2", "delivered", day1, day2, day3, day4, anItem(1, "pen", "s1", 450, 120, "null")},
		{"o3", "shipped", day1, day2, day3, "", pen + "," + anItem(2, "pen", "s1", 500, 120, "office") + "," + anItem(3, "cup", "s2", 900, 0, "home")},
		{"o4", "invoiced", day1, day2, "", "", pen},
		{"o5", "processing", day1, day2, "", "", anItem(1, "pen", "s3", 500, 120, "office")},
		{"o6", "canceled", day1, day2, day3, "", pen},
		{"o7", "delivered", day1, day3, day2, day4, anItem(2, "cup", "s2", 900, 0, "home") + "," + anItem(1, "pen", "s1", 500, 120, "office")},
		{"o8", "delivered", day1, "", day3, "", pen},
		{"o9", "created", day1, "", "", "", pen},
		{"o10", "unavailable", day1, day2, "", "", pen},
		{"o11", "approved", day1, day2, "", "", pen},
		{"o12", "teleported", "", day2, "", "", anItem(1, "gift", "s1", 0, 0, "")},
	}
}

// theEnd is what the file comes to.
var theEnd = map[order.Status]int{
	order.StatusCompleted: 5, order.StatusShipped: 2, order.StatusPaid: 3, order.StatusRefunded: 2, order.StatusPending: 2,
}

const (
	theOrders = 14
	theGross  = 620 + 570 + 2140 + 620 + 620 + 620 + 1520 + 620 + 620 + 620 + 620
)

func textOf(lines []aLine) string {
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(l.String() + "\n")
	}
	return b.String()
}

func planOf(t *testing.T, text string) importPlan {
	t.Helper()
	orders, err := readOrders(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	plan, err := planImport(orders, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

func TestALineThatIsNoOrderIsNamed(t *testing.T) {
	good := theFile()[0]
	with := func(change func(*aLine)) string {
		l := good
		l.id = "other"
		change(&l)
		return l.String()
	}
	text := with(func(*aLine) {})
	before, _, _ := strings.Cut(text, "[")
	swap := func(old, by string) string {
		if !strings.Contains(text, old) {
			t.Fatalf("no %q in %s", old, text)
		}
		return strings.Replace(text, old, by, 1)
	}
	for name, c := range map[string]struct{ line, says string }{
		"not JSON":                 {`order`, "not a JSON object"},
		"a list":                   {`[]`, "not a JSON object"},
		"cut off":                  {good.String()[:90], "too early"},
		"two values":               {swap(`"s1"`, `"s1"`) + `{}`, "behind"},
		"not UTF-8":                {swap("office", "off\xff"), "UTF-8"},
		"an unknown member":        {swap(`"status"`, `"colour":"red","status"`), "colour"},
		"other letters":            {swap(`"status"`, `"Status"`), "Status"},
		"a member twice":           {swap(`"status"`, `"status":"shipped","status"`), "twice"},
		"an unknown item's member": {swap(`"line"`, `"size":1,"line"`), "size"},
		"a member is missing":      {swap(`"buyer_id":"b-other",`, ``), "buyer_id"},
		"a member is null":         {swap(`"delivered","pur`, `null,"pur`), "null"},
		"no items":                 {with(func(l *aLine) { l.items = "" }), "1 to 200 items"},
		"items are no list":        {before + `7}`, "items"},
		"no id":                    {with(func(l *aLine) { l.id = "a b" }), "order_id"},
		"an id as a number":        {swap(`"b-other"`, `7`), "buyer_id"},
		"a platform's account":     {swap(`"b-other"`, `"platform.escrow.BRL"`), "buyer_id"},
		"no status":                {with(func(l *aLine) { l.status = "" }), "status"},
		"a time without a zone":    {with(func(l *aLine) { l.shipped = "2017-03-01 10:00:00" }), "2017-03-01 10:00:00"},
		"a price with a fraction":  {swap(`500`, `500.5`), "price_minor"},
		"a price as text":          {swap(`500`, `"500"`), "price_minor"},
		"a negative price":         {swap(`500`, `-1`), "negative"},
		"prices that overflow":     {swap(`500`, `9223372036854775807`), "overflow"},
		"a colon in a product":     {swap(`"pen"`, `"pen:red"`), "colon"},
		"line 0":                   {swap(`"line":1`, `"line":0`), "begin with 1"},
		"a line twice":             {with(func(l *aLine) { l.items += "," + l.items }), "line 1 already"},
		"an order twice":           {good.String(), "stands on line 1 already"},
		"a line that is too long":  {`"` + strings.Repeat("x", maxLineBytes) + `"`, "too long"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := readOrders(strings.NewReader(good.String() + "\n\n" + c.line + "\n"))
			if err == nil || !strings.HasPrefix(err.Error(), "line 3: ") || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want line 3 and %q", err, c.says)
			}
		})
	}
}

func TestAMissingMemberThatMayBeNullIsNull(t *testing.T) {
	text := strings.NewReplacer(`,"shipped_at":null,"delivered_at":null`, "", `,"category":"office"`, "").Replace(theFile()[3].String())
	orders, err := readOrders(strings.NewReader(text))
	if err != nil || len(orders) != 1 || !orders[0].ShippedAt.IsZero() || orders[0].Items[0].Category != "" {
		t.Fatalf("got %+v, %v", orders, err)
	}
}

func TestTheStatusAloneDecidesTheSteps(t *testing.T) {
	for _, times := range []aLine{{}, {purchased: day1, approved: day2, shipped: day3, delivery: day4}} {
		for status, want := range map[string]string{
			"delivered": "pay ship deliver → completed", "shipped": "pay ship → shipped", "invoiced": "pay → paid",
			"processing": "pay → paid", "canceled": "pay cancel(operator) → refunded", "approved": "pay → paid",
			"unavailable": "pay cancel(stock) → refunded", "created": "→ pending_payment", "lost": "→ pending_payment",
		} {
			l := times
			l.id, l.status, l.items = "x", status, anItem(1, "pen", "s1", 1, 1, "office")
			plan := planOf(t, textOf([]aLine{{"first", "created", day1, "", "", "", l.items}, l}))
			if got := inWords(plan.orders[1].fate); got != want {
				t.Errorf("%s: got %q, want %q", status, got, want)
			}
		}
	}
}

func inWords(f fate) string {
	var words []string
	for _, step := range []struct {
		taken bool
		name  string
	}{{f.pays, "pay"}, {f.ships, "ship"}, {f.delivers, "deliver"}, {f.cancels != "", "cancel(" + string(f.cancels) + ")"}} {
		if step.taken {
			words = append(words, step.name)
		}
	}
	return strings.Join(append(words, "→", string(f.ends)), " ")
}

func TestNoOddityIsLost(t *testing.T) {
	got := map[string][]string{}
	for _, o := range planOf(t, textOf(theFile())).oddities {
		got[o.OrderID] = append(got[o.OrderID], o.Kind+": "+o.Detail)
	}
	want := map[string][]string{
		"o2": {"null_category: no category on line 1: the title names the product only, unless another line of the SKU has one"},
		"o6": {"excluded_time: shipped_at (2017-03-03T10:00:00Z) is not used: the status is canceled"},
		"o7": {"backwards_times: shipped_at (2017-03-02T10:00:00Z) is before approved_at (2017-03-03T10:00:00Z): every step is dated as the file says"},
		"o8": {
			"missing_time: approved_at is missing: purchased_at (2017-03-01T10:00:00Z) stands in for it",
			"missing_time: delivered_at is missing: shipped_at (2017-03-03T10:00:00Z) stands in for it",
		},
		"o9":  {"uncertain_status: the status created is taken for placed and not paid"},
		"o10": {"uncertain_status: the status unavailable is taken for paid, then cancelled for want of stock"},
		"o11": {"uncertain_status: the status approved is taken for paid"},
		"o12": {
			"missing_time: purchased_at is missing: the order's earliest time (2017-03-02T10:00:00Z) stands in for it",
			"excluded_time: approved_at (2017-03-02T10:00:00Z) is not used: the status is teleported",
			"uncertain_status: the status teleported is not known: placed, and nothing more",
			"null_category: no category on line 1: the title names the product only, unless another line of the SKU has one",
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestAnOrderWithoutAnyTimeIsDatedByItsFile(t *testing.T) {
	lines := []aLine{{id: "a", status: "shipped", items: anItem(1, "pen", "s1", 1, 1, "office")}, theFile()[1], theFile()[0]}
	plan := planOf(t, textOf(lines))
	if got := stamp(plan.orders[0].at.shipped); got != day1 {
		t.Errorf("shipped at %s", got)
	}
	orders, err := readOrders(strings.NewReader(lines[0].String()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := planImport(orders, time.Now()); err == nil || !strings.Contains(err.Error(), "date it by") {
		t.Errorf("a file without any time: %v", err)
	}
}

func TestAStepInTheFutureIsRefusedBeforeAnythingIsWritten(t *testing.T) {
	orders, err := readOrders(strings.NewReader(textOf(theFile())))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2017, 3, 4, 9, 0, 0, 0, time.UTC)
	if _, err := planImport(orders, now); err == nil || !strings.Contains(err.Error(), "order o1: "+day4+" is in the future") {
		t.Errorf("got %v", err)
	}
}

func TestASKUIsAProductOfASellerAtAPriceAndAFreight(t *testing.T) {
	skus := map[string]string{}
	for _, o := range planOf(t, textOf(theFile())).orders {
		for _, offer := range o.offers {
			if domain.CheckSKU("", offer.sku) != nil {
				t.Errorf("%q is no SKU", offer.sku)
			}
			skus[offer.sku] = offer.title
		}
	}
	want := map[string]string{
		"pen:s1:500:120": "office pen", "pen:s1:450:120": "Product pen", "pen:s3:500:120": "office pen",
		"cup:s2:900:0": "home cup", "gift:s1:0:0": "Product gift",
	}
	if diff := cmp.Diff(want, skus); diff != "" {
		t.Error(diff)
	}
	longest := sourceItem{Product: strings.Repeat("p", 64), Seller: strings.Repeat("s", 64), Price: 1<<63 - 1, Freight: 1<<63 - 1}
	if domain.CheckSKU("", longest.sku()) != nil {
		t.Error("the longest name is too long")
	}
}

// importShop is the real write API, the shop itself behind it, on a store in
// memory, with orders read by folding their streams.
type importShop struct {
	*commands.Shop
	store    *memstore.Store
	events   *event.Registry
	behind   atomic.Int64 // how much later it is there than here
	requests atomic.Int64
	routes   http.Handler
}

func newImportShop(t *testing.T, backdating bool) *importShop {
	t.Helper()
	s := &importShop{store: new(memstore.Store)}
	ring, err := keyring.New(s.store, make([]byte, personal.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	now := func() time.Time { return time.Now().Add(time.Duration(s.behind.Load())) }
	if s.Shop, err = commands.Open(commands.Setup{Store: s.store, Sealer: ring, Now: now}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	if s.events, err = commands.Events(); err != nil {
		t.Fatal(err)
	}
	gin.SetMode(gin.ReleaseMode)
	engine, log := gin.New(), slog.New(slog.DiscardHandler)
	err = writeapi.Routes(engine, writeapi.Config{
		Log: log, Shop: s, DigestSecret: make([]byte, 32), AllowBackdating: backdating, Now: now,
	})
	if err != nil {
		t.Fatal(err)
	}
	engine.GET("/v1/orders/:id", problem.Handler(log, func(c *gin.Context) error {
		o, err := s.FindOrder(c.Request.Context(), orderid.ID(c.Param("id")))
		if err == nil {
			c.JSON(http.StatusOK, gin.H{"order_id": o.ID, "status": o.Status, "total": money.Money{Amount: o.Total(), Currency: o.Currency}})
		}
		return err
	}))
	s.routes = engine
	return s
}

func (s *importShop) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.requests.Add(1)
	s.routes.ServeHTTP(w, r)
}

func fold[S, C, E any](ctx context.Context, s *importShop, d domain.Decider[S, C, E], stream string) (state S, err error) {
	for r, err := range s.store.Load(ctx, stream, 0) {
		if err != nil {
			return state, err
		}
		e, err := event.Decode[E](s.events, r)
		if err != nil {
			return state, err
		}
		if state, err = d.Evolve(state, e); err != nil {
			return state, err
		}
	}
	return state, nil
}

func (s *importShop) FindOrder(ctx context.Context, id orderid.ID) (order.Order, error) {
	o, err := fold(ctx, s, order.Decider, "order-"+string(id))
	if err == nil && o.Status == order.StatusNone {
		err = domain.Refuse(domain.NotFound, "unknown_order", "There is no order %s.", id)
	}
	return o, err
}

// streams names the streams of a category, with how many events each has.
func (s *importShop) streams(t *testing.T, category string) map[string]int {
	t.Helper()
	found := map[string]int{}
	for n, err := range s.store.Follow(t.Context(), 0, category) {
		if err != nil {
			t.Fatal(err)
		}
		if n.CaughtUp {
			break
		}
		if n.Event.Stream != "" {
			found[n.Event.Stream]++
		}
	}
	return found
}

// settle does what the processes behind the bus do.
func (s *importShop) settle(t *testing.T) {
	t.Helper()
	for stream := range s.streams(t, "order-") {
		if err := s.Settle(t.Context(), strings.TrimPrefix(stream, "order-")); err != nil {
			t.Fatal(err)
		}
	}
}

// startImport imports text from a file by the command itself.
func startImport(ctx context.Context, t *testing.T, url, text string) (importReport, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "orders.jsonl")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := newImportCommand() //nolint:contextcheck // it is given its context when it is run
	var out bytes.Buffer
	cmd.SetArgs([]string{file, "--target", url, "--json", "--concurrency", "4"})
	cmd.SetOut(&out)
	cmd.SetErr(io.Discard)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	err := cmd.ExecuteContext(ctx)
	if err != nil {
		if out.Len() > 0 {
			t.Errorf("it failed and printed %s", out.String())
		}
		return importReport{}, err
	}
	dec := json.NewDecoder(&out)
	dec.DisallowUnknownFields()
	var report importReport
	if err := dec.Decode(&report); err != nil || dec.More() {
		t.Fatalf("standard output is not one report: %v", err)
	}
	return report, nil
}

func mustImport(t *testing.T, url, text string) importReport {
	t.Helper()
	report, err := startImport(t.Context(), t, url, text)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// books sums what stock and accounts say, for all SKUs and owners together.
type books struct{ OnHand, Held, Allocated, Buyers, Sellers, Escrow int64 }

func (s *importShop) books(t *testing.T) (b books) {
	t.Helper()
	for stream := range s.streams(t, "inventory-") {
		st, err := fold(t.Context(), s, inventory.Decider, stream)
		if err != nil {
			t.Fatal(err)
		}
		b.OnHand, b.Held, b.Allocated = b.OnHand+st.OnHand, b.Held+st.Held, b.Allocated+st.Allocated
	}
	for stream := range s.streams(t, "account-") {
		a, err := fold(t.Context(), s, account.Decider, stream)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case a.ID == account.Escrow("BRL"):
			b.Escrow += a.Balance
		case account.IsSeller(a.ID):
			b.Sellers += a.Balance
		case !account.IsPlatform(a.ID):
			b.Buyers += a.Balance
		}
	}
	return b
}

// theBooks are the books once the file is in and settled: what was not shipped
// is on the shelf, what was not sold is with its buyer.
var theBooks = books{
	OnHand: 3 /* paid */ + 2 /* refunded */ + 2 /* pending */, Held: 2, Allocated: 3,
	Buyers: 2 * 620, Sellers: theEarned, Escrow: theGross - 2*620 - 620 - theEarned, // less the refunded, less the one that is not paid
}

// theEarned is what the orders cost that are completed: their sellers have it.
const theEarned = 3330

func TestAnImportEndsAsTheFileSaysAndASecondRunChangesNothing(t *testing.T) {
	s := newImportShop(t, true)
	web := httptest.NewServer(s)
	defer web.Close()
	text := textOf(theFile())
	want := importReport{
		SourceOrders: 12, Orders: theOrders, ByStatus: theEnd, Gross: money.Money{Amount: theGross, Currency: "BRL"},
		Created: theOrders, Oddities: planOf(t, text).oddities,
	}
	if diff := cmp.Diff(want, mustImport(t, web.URL, text)); diff != "" {
		t.Fatal(diff)
	}
	want.Created, want.Unchanged = 0, theOrders
	for _, run := range []string{"at once", "once all is settled", "two days later"} {
		before := s.streams(t, "")
		if diff := cmp.Diff(want, mustImport(t, web.URL, text)); diff != "" {
			t.Fatalf("%s: %s", run, diff)
		}
		if diff := cmp.Diff(before, s.streams(t, "")); diff != "" {
			t.Fatalf("%s: streams have grown: %s", run, diff)
		}
		s.settle(t)
		s.behind.Add(int64(24 * time.Hour))
	}
	if diff := cmp.Diff(theBooks, s.books(t)); diff != "" {
		t.Error(diff)
	}
}

func TestEveryStepIsDatedAndEveryWaybillNamed(t *testing.T) {
	s := newImportShop(t, true)
	web := httptest.NewServer(s)
	defer web.Close()
	mustImport(t, web.URL, textOf(theFile()[6:7]))
	want := map[string]string{
		"order.placed": day1, "order.paid": day3, "order.parcel_packed": day2, "order.waybill_set": day2, "order.parcel_shipped": day2,
		"order.shipped": day2, "order.parcel_delivered": day4, "order.completed": day4,
	}
	orders := s.streams(t, "order-")
	if len(orders) != 2 {
		t.Fatalf("got %v", orders)
	}
	for stream := range orders {
		got := map[string]string{}
		for r, err := range s.store.Load(t.Context(), stream, 0) {
			if err != nil {
				t.Fatal(err)
			}
			got[r.Name] = stamp(r.At)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		o, err := s.FindOrder(t.Context(), orderid.ID(event.SubjectID(stream)))
		if err != nil {
			t.Fatal(err)
		}
		if p := o.Parcels[0]; !o.Deadline.IsZero() || p.Waybill.Carrier != importCarrier || p.Waybill.Number != o.ID {
			t.Errorf("deadline %s, waybill %+v", o.Deadline, p.Waybill)
		}
	}
}

func TestALaterFileGoesOnWhereTheFirstOneEnded(t *testing.T) {
	s := newImportShop(t, true)
	web := httptest.NewServer(s)
	defer web.Close()
	first := aLine{"o1", "invoiced", day1, day2, "", "", anItem(1, "pen", "s1", 500, 120, "null")}
	mustImport(t, web.URL, first.String())
	later, another := first, first
	later.status, later.shipped, later.delivery = "delivered", day3, day4
	later.items = anItem(1, "pen", "s1", 500, 120, "office")
	another.id = "o2" // of the same SKU: it needs stock of its own
	got := mustImport(t, web.URL, textOf([]aLine{later, another}))
	want := map[order.Status]int{order.StatusCompleted: 1, order.StatusPaid: 1}
	if diff := cmp.Diff(want, got.ByStatus); diff != "" || got.Created != 1 || got.Unchanged != 0 {
		t.Fatalf("created %d, unchanged %d: %s", got.Created, got.Unchanged, diff)
	}
	kinds := map[string]bool{}
	for _, o := range got.Oddities {
		kinds[o.Kind] = true
	}
	if !kinds[oddOffer] { // it had no category in the first file
		t.Errorf("got %v", got.Oddities)
	}
	if again := mustImport(t, web.URL, textOf([]aLine{first, another})); again.Unchanged != 1+1 || !slices.ContainsFunc(again.Oddities, func(o oddity) bool { return o.Kind == oddEnd }) {
		t.Errorf("the older file again: %+v", again)
	}
}

// cut drops the connection of each nth request, before it is carried out or
// after: the client can't tell which.
func cut(next http.Handler, nth int64) http.Handler {
	var n atomic.Int64
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch n.Add(1) % (2 * nth) {
		case 0:
			panic(http.ErrAbortHandler)
		case nth:
			next.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		}
		next.ServeHTTP(w, r)
	})
}

// quietly is a test server that does not print the panics it is given.
func quietly(t *testing.T, h http.Handler) *httptest.Server {
	t.Helper()
	web := httptest.NewUnstartedServer(h)
	web.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	web.Start()
	t.Cleanup(web.Close)
	return web
}

func TestAnswersThatAreLostChangeNothing(t *testing.T) {
	s := newImportShop(t, true)
	web := quietly(t, cut(s, 3))
	got := mustImport(t, web.URL, textOf(theFile()))
	if diff := cmp.Diff(theEnd, got.ByStatus); diff != "" || got.Orders != theOrders || got.Gross.Amount != theGross {
		t.Errorf("got %d orders, %v: %s", got.Orders, got.Gross, diff)
	}
	s.settle(t)
	if diff := cmp.Diff(theBooks, s.books(t)); diff != "" {
		t.Error(diff)
	}
}

func TestAnImportThatIsStoppedAnywhereEndsAlikeWhenRunAgain(t *testing.T) {
	whole := newImportShop(t, true)
	web := httptest.NewServer(whole)
	mustImport(t, web.URL, textOf(theFile()))
	web.Close()
	for after := int64(1); after < whole.requests.Load(); after += 7 {
		s := newImportShop(t, true)
		ctx, stop := context.WithCancel(t.Context())
		var n atomic.Int64
		web := quietly(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if n.Add(1) == after {
				stop()
			}
			s.ServeHTTP(w, r)
		}))
		if _, err := startImport(ctx, t, web.URL, textOf(theFile())); exitOf(err) != 1 {
			t.Fatalf("stopped after %d: got %v", after, err)
		}
		s.behind.Add(int64(25 * time.Hour)) // the ids that were drawn are too old by now
		got := mustImport(t, web.URL, textOf(theFile()))
		if diff := cmp.Diff(theEnd, got.ByStatus); diff != "" || got.Orders != theOrders || got.Gross.Amount != theGross {
			t.Fatalf("stopped after %d: got %d orders, %v: %s", after, got.Orders, got.Gross, diff)
		}
		if again := mustImport(t, web.URL, textOf(theFile())); again.Unchanged != theOrders {
			t.Fatalf("stopped after %d, and once more: %d of %d unchanged", after, again.Unchanged, theOrders)
		}
		s.settle(t)
		if diff := cmp.Diff(theBooks, s.books(t)); diff != "" {
			t.Fatalf("stopped after %d: %s", after, diff)
		}
	}
}

func TestWithoutBackdatingNothingIsWritten(t *testing.T) {
	s := newImportShop(t, false)
	web := httptest.NewServer(s)
	defer web.Close()
	_, err := startImport(t.Context(), t, web.URL, textOf(theFile()))
	if exitOf(err) != exitUsage || !strings.Contains(err.Error(), "backdating_off") {
		t.Errorf("got exit %d, %v", exitOf(err), err)
	}
	if written := s.streams(t, ""); len(written) > 0 {
		t.Errorf("written: %v", slices.Collect(maps.Keys(written)))
	}
}

func TestABadLineEndsTheImportBeforeTheServerHearsOfIt(t *testing.T) {
	s := newImportShop(t, true)
	web := httptest.NewServer(s)
	defer web.Close()
	_, err := startImport(t.Context(), t, web.URL, textOf(theFile())+"{\n")
	if exitOf(err) != 1 || !strings.Contains(err.Error(), "line 13: ") || s.requests.Load() > 0 {
		t.Errorf("got exit %d, %v after %d requests", exitOf(err), err, s.requests.Load())
	}
}

func TestTheCommandLineIsChecked(t *testing.T) {
	for _, args := range [][]string{
		{}, {"a", "b"}, {"a", "--target", "127.0.0.1:8080"}, {"a", "--concurrency", "0"}, {"a", "--currency", "XXY"},
	} {
		cmd := newImportCommand()
		cmd.SetArgs(append([]string{}, args...)) // nil would be the test's own
		cmd.SetOut(io.Discard)
		cmd.SetErr(io.Discard)
		if err := cmd.ExecuteContext(t.Context()); exitOf(err) != exitUsage {
			t.Errorf("%v: got %v", args, err)
		}
	}
	opt := importOptions{target: "http://127.0.0.1:1", concurrency: 1, currency: "BRL"}
	if err := opt.run(t.Context(), filepath.Join(t.TempDir(), "none"), io.Discard, io.Discard); exitOf(err) != exitFailed {
		t.Errorf("a file that is not there: %v", err)
	}
}

func TestARefusalEndsTheImportAndSaysWhere(t *testing.T) {
	s := newImportShop(t, true)
	web := quietly(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/pay") {
			w.WriteHeader(http.StatusConflict)
			_, _ = io.WriteString(w, `{"type":"/problems/not_payable","detail":"No.","errors":[{"pointer":"/x"}]}`)
			return
		}
		s.ServeHTTP(w, r)
	}))
	_, err := startImport(t.Context(), t, web.URL, textOf(theFile()[:1]))
	if exitOf(err) != exitFailed || !strings.Contains(err.Error(), "order o1: step pay: not_payable: No. (/x)") {
		t.Errorf("got %v", err)
	}
}

func TestAServerThatGoesAwayEndsTheImportInTime(t *testing.T) {
	if patience > 28*time.Second {
		t.Error("there is too little time left to end within 30 s")
	}
	for name, leave := range map[string]func(http.ResponseWriter, *http.Request){
		"it drops connections": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"it does not answer":   func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"it is not ready": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newImportShop(t, true)
			web := quietly(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body) // a server that has not read the body never hears the client leave
				if s.requests.Load() > 40 {
					leave(w, r)
					return
				}
				s.requests.Add(1)
				w.Header().Set("X-Answered", "yes")
				_, _ = io.WriteString(w, `{}`)
			}))
			im := tinyImporter(t, web.URL)
			o := &orderImport{importer: im, plan: planOf(t, theFile()[0].String()).orders[0]}
			start := time.Now()
			var err error
			for err == nil {
				err = o.receive(t.Context())
			}
			if took := time.Since(start); took > 5*time.Second || exitOf(err) != 1 || !strings.Contains(err.Error(), "step stock/1: "+web.URL+" gave no answer") {
				t.Errorf("after %s: %v", took, err)
			}
		})
	}
}

// tinyImporter has hardly any patience.
func tinyImporter(t *testing.T, url string) *importer {
	t.Helper()
	api, err := newClient(url, 4)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(api.close)
	return &importer{api: api.with(200 * time.Millisecond), currency: "BRL", concurrency: 4, done: func() {}}
}

func TestAServerThatIsNotOursIsLeftAlone(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"it takes everything":  func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") },
		"it knows no such way": http.NotFound,
	} {
		var asked atomic.Int64
		web := quietly(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { asked.Add(1); h(w, r) }))
		if _, err := startImport(t.Context(), t, web.URL, textOf(theFile())); exitOf(err) != 1 || asked.Load() != 1 {
			t.Errorf("%s: got %v after %d requests", name, err, asked.Load())
		}
	}
}

func TestAClientSendsAgainWhatMayPass(t *testing.T) {
	web := func(times int64, status int, body, after string) (*client, *atomic.Int64) {
		var n atomic.Int64
		srv := quietly(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if key := r.Header.Get("Idempotency-Key"); key != "k" {
				t.Errorf("got key %q", key)
			}
			if n.Add(1) <= times {
				if after != "" {
					w.Header().Set("Retry-After", after)
				}
				w.WriteHeader(status)
				_, _ = io.WriteString(w, body)
				return
			}
			w.Header().Set("Idempotent-Replayed", "true")
			w.Header().Set("Cartwright-Token", "tok")
			w.WriteHeader(http.StatusCreated)
			_, _ = io.WriteString(w, `{"n":7}`)
		}))
		c, err := newClient(srv.URL, 1)
		if err != nil {
			t.Fatal(err)
		}
		return c.with(5 * time.Second), &n
	}
	problemOf := func(slug string) string { return `{"type":"/problems/` + slug + `","detail":"Wait."}` }
	for name, c := range map[string]struct {
		status int
		body   string
		again  bool
	}{
		"busy":                  {http.StatusServiceUnavailable, problemOf("busy"), true},
		"a proxy without words": {http.StatusBadGateway, "", true},
		"too many":              {http.StatusTooManyRequests, problemOf("slow_down"), true},
		"in progress":           {http.StatusConflict, problemOf("in_progress"), true},
		"others kept writing":   {http.StatusConflict, problemOf("conflict"), true},
		"out of stock":          {http.StatusConflict, problemOf("out_of_stock"), false},
		"our fault":             {http.StatusInternalServerError, problemOf("internal"), false},
		"no such thing":         {http.StatusNotFound, problemOf("unknown_sku"), false},
	} {
		api, n := web(2, c.status, c.body, "")
		var told struct{ N int }
		got, err := api.do(t.Context(), request{method: http.MethodPost, path: "/v1/x", key: "k"}, &told)
		if c.again && (err != nil || told.N != 7 || got != (reply{created: true, repeated: true, token: "tok"}) || n.Load() != 3) {
			t.Errorf("%s: got %+v, %v after %d", name, got, err, n.Load())
		}
		if !c.again && (err == nil || n.Load() != 1) {
			t.Errorf("%s: got %v after %d", name, err, n.Load())
		}
	}
	api, _ := web(1, http.StatusTooManyRequests, "", "1")
	start := time.Now()
	if _, err := api.do(t.Context(), request{method: http.MethodPost, path: "/v1/x", key: "k"}, nil); err != nil || time.Since(start) < time.Second {
		t.Errorf("Retry-After: %v after %s", err, time.Since(start))
	}
}

func TestAClientThatIsStoppedStops(t *testing.T) {
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + l.Addr().String()
	if err = l.Close(); err != nil { // nobody listens there now
		t.Fatal(err)
	}
	api, err := newClient(url, 1)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	start := time.Now()
	if _, err := api.do(ctx, request{method: http.MethodGet, path: "/"}, nil); !errors.Is(err, context.Canceled) || time.Since(start) > 5*time.Second {
		t.Errorf("got %v after %s", err, time.Since(start))
	}
}

func TestTheReportForPeopleSaysItAll(t *testing.T) {
	var out strings.Builder
	r := importReport{
		SourceOrders: 1, Orders: 2, ByStatus: map[order.Status]int{order.StatusPaid: 2}, Gross: money.Money{Amount: 6452374, Currency: "BRL"},
		Created: 2, Oddities: []oddity{{"o1", oddCategory, "none"}},
	}
	if err := r.print(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"orders of the source  1", "  paid                2", "6452374 BRL", "o1  null_category: none"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

func TestProgressIsToldInLinesToAPipe(t *testing.T) {
	var out strings.Builder
	p := newProgress(&out, "orders imported", 3)
	p.end()
	if out.Len() > 0 {
		t.Errorf("nothing is done, and it says %q", out.String())
	}
	p.told = p.told.Add(-linesEvery)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(p.step)
	}
	wg.Wait()
	p.end()
	if lines := strings.Split(strings.TrimSpace(out.String()), "\n"); len(lines) != 2 || !strings.HasPrefix(lines[1], "orders imported: 2 of 3, ") {
		t.Errorf("got %q", lines)
	}
}
