package sandboxpay_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cartwright/commands"
	"cartwright/domain"
	"cartwright/domain/money"
	"cartwright/infra/sandboxpay"
)

func TestEveryCallMadeTwiceIsDoneOnce(t *testing.T) {
	w := newWorld(t, sandboxpay.ServerConfig{})
	twice := func(name string, call func() (any, error)) any {
		t.Helper()
		first, err := call()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		second, err := call()
		if err != nil {
			t.Fatalf("%s again: %v", name, err)
		}
		if diff := cmp.Diff(first, second); diff != "" {
			t.Errorf("%s again is another (-first +second):\n%s", name, diff)
		}
		return first
	}
	ask := func() (any, error) { return w.client.Ask(t.Context(), asking("p-1", 500)) }
	find := func() (any, error) { return w.client.Find(t.Context(), "p-1") }
	closing := func(id string) func() (any, error) {
		return func() (any, error) { return w.client.Close(t.Context(), id) }
	}

	in, _ := twice("ask", ask).(commands.Instruction)
	var data struct {
		PayURL string `json:"pay_url"`
	}
	if err := json.Unmarshal(in.Data, &data); err != nil || data.PayURL != channelURL+"/pay/p-1" || in.Reference == "" {
		t.Errorf("the instruction is %+v %s, %v", in, in.Data, err)
	}
	if got := twice("find", find); got != (commands.Notice{Kind: commands.NoticePending, Payment: "p-1"}) {
		t.Errorf("before it is paid: %+v", got)
	}
	w.pay("p-1", "")
	paid, _ := twice("find", find).(commands.Notice)
	if paid.Kind != commands.NoticePaid || paid.Money != yuan(500) || paid.Trade == "" || paid.At.IsZero() {
		t.Errorf("paid: %+v", paid)
	}
	if got := twice("ask for a paid one", ask); cmp.Diff(got, any(in)) != "" {
		t.Errorf("the instruction became %+v", got)
	}
	if got := twice("close a paid one", closing("p-1")); got != paid {
		t.Errorf("closed when paid: %+v", got)
	}
	back, _ := twice("refund", func() (any, error) { return w.client.Refund(t.Context(), returning("p-1", "r.1", 200, 500)) }).(commands.Notice)
	want := commands.Notice{Kind: commands.NoticeRefunded, Payment: "p-1", Trade: paid.Trade, Refund: "r.1", Money: yuan(200), At: back.At}
	if back != want || back.At.IsZero() {
		t.Errorf("refunded: %+v, want %+v", back, want)
	}
	w.ask("p-2", 900)
	if got, _ := twice("close", closing("p-2")).(commands.Notice); got.Kind != commands.NoticeFailed || got.Note == "" {
		t.Errorf("closed: %+v", got)
	}
	if code, said := w.send(http.MethodPost, "/pay/p-2", ""); code != http.StatusConflict || codeOf(t, said) != "not_payable" {
		t.Errorf("a closed one is paid: %d %s", code, said)
	}
	if st := w.server.Status(); st.Created != 2 || st.Paid != 1 || st.Closed != 1 || st.Refunded != 1 {
		t.Errorf("counted: %+v", st)
	}
}

func TestAPaymentThatTheChannelNeverHeardOfIsPending(t *testing.T) {
	w := newWorld(t, sandboxpay.ServerConfig{})
	for _, id := range []string{"unknown", "", "../status", strings.Repeat("x", 40)} {
		if got := w.find(id); got != (commands.Notice{Kind: commands.NoticePending, Payment: id}) {
			t.Errorf("%q: %+v", id, got)
		}
	}
}

func TestAPaymentClosedBeforeItWasAskedForCantBeAskedFor(t *testing.T) {
	w := newWorld(t, sandboxpay.ServerConfig{})
	for range 2 {
		if n, err := w.client.Close(t.Context(), "p-1"); err != nil || n.Kind != commands.NoticeFailed {
			t.Fatalf("close: %+v, %v", n, err)
		}
	}
	wantRefused(t, "ask", asks(w.client.Ask(t.Context(), asking("p-1", 500))), "not_payable")
	if got := w.find("p-1"); got.Kind != commands.NoticeFailed {
		t.Errorf("find: %+v", got)
	}
}

// asks leaves only the error of an Ask.
func asks(_ commands.Instruction, err error) error { return err }

// notices leaves only the error of the others.
func notices(_ commands.Notice, err error) error { return err }

func wantRefused(t *testing.T, what string, err error, code string) {
	t.Helper()
	e, ok := errors.AsType[*domain.Error](err)
	if !ok || e.Code != domain.Rejected || e.Reason != "channel_refused" || !strings.Contains(e.Detail, code) {
		t.Errorf("%s: got %v, want a refusal by the channel that says %s", what, err, code)
	}
}

func wantUnavailable(t *testing.T, what string, err error) {
	t.Helper()
	if domain.CodeOf(err) != domain.Unavailable || domain.ReasonOf(err) != "channel_unavailable" {
		t.Errorf("%s: got %v, want channel_unavailable", what, err)
	}
	if err != nil && strings.Contains(err.Error(), secret) {
		t.Errorf("%s: the secret is told: %v", what, err)
	}
}

func TestWhatTheChannelRefusesForGoodIsRejected(t *testing.T) {
	w := newWorld(t, sandboxpay.ServerConfig{})
	ctx := t.Context()
	w.ask("p-1", 500)
	w.ask("p-2", 500)
	w.pay("p-1", "")
	if _, err := w.client.Refund(ctx, returning("p-1", "r1", 300, 500)); err != nil {
		t.Fatal(err)
	}
	dollars := asking("p-1", 500)
	dollars.Total.Currency = "USD"
	inDollars := returning("p-1", "r2", 100, 500)
	inDollars.Amount.Currency, inDollars.Total.Currency = "USD", "USD"
	mixed := returning("p-1", "r2", 100, 500)
	mixed.Amount.Currency = "USD"
	gone := asking("p-3", 500)
	gone.Expires = time.Now().Add(-time.Minute)
	wordy := asking("p-3", 500)
	wordy.Total.Currency = "XXX"
	for name, c := range map[string]struct {
		err  error
		code string
	}{
		"another amount":            {asks(w.client.Ask(ctx, asking("p-1", 501))), "other_payment"},
		"another currency":          {asks(w.client.Ask(ctx, dollars)), "other_payment"},
		"nothing to pay":            {asks(w.client.Ask(ctx, asking("p-3", 0))), "bad_request"},
		"no currency":               {asks(w.client.Ask(ctx, wordy)), "bad_request"},
		"no id":                     {asks(w.client.Ask(ctx, asking("", 1))), "bad_payment"},
		"an id with a slash":        {asks(w.client.Ask(ctx, asking("a/b", 1))), "bad_payment"},
		"a long id":                 {asks(w.client.Ask(ctx, asking(strings.Repeat("a", 33), 1))), "bad_payment"},
		"expired before it began":   {asks(w.client.Ask(ctx, gone)), "not_payable"},
		"close what has no id":      {notices(w.client.Close(ctx, "")), "bad_payment"},
		"refund what is not paid":   {notices(w.client.Refund(ctx, returning("p-2", "r1", 100, 500))), "not_paid"},
		"refund what is not there":  {notices(w.client.Refund(ctx, returning("p-9", "r1", 100, 500))), "unknown_payment"},
		"refund too much":           {notices(w.client.Refund(ctx, returning("p-1", "r2", 201, 500))), "too_much"},
		"refund nothing":            {notices(w.client.Refund(ctx, returning("p-1", "r2", 0, 500))), "bad_request"},
		"refund another sum by key": {notices(w.client.Refund(ctx, returning("p-1", "r1", 200, 500))), "other_refund"},
		"refund of another total":   {notices(w.client.Refund(ctx, returning("p-1", "r2", 100, 501))), "other_payment"},
		"refund in dollars":         {notices(w.client.Refund(ctx, inDollars)), "other_payment"},
		"refund dollars of yuan":    {notices(w.client.Refund(ctx, mixed)), "wrong_currency"},
		"refund by a key of dots":   {notices(w.client.Refund(ctx, returning("p-1", "..", 100, 500))), "bad_refund"},
		"refund by no key":          {notices(w.client.Refund(ctx, returning("p-1", "", 100, 500))), "bad_refund"},
	} {
		wantRefused(t, name, c.err, c.code)
	}
	if n, err := w.client.Refund(ctx, returning("p-1", "r2", 200, 500)); err != nil || n.Kind != commands.NoticeRefunded {
		t.Errorf("the rest: %+v, %v", n, err)
	}
}

// losing does what is asked, and loses every first answer.
type losing struct {
	through http.RoundTripper
	mu      sync.Mutex
	lost    map[string]bool
}

func (l *losing) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := l.through.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if key := r.Method + r.URL.Path; !l.lost[key] {
		l.lost[key] = true
		return nil, errors.Join(errors.New("connection reset"), resp.Body.Close())
	}
	return resp, nil
}

func TestALostAnswerIsSettledByTheSameCall(t *testing.T) {
	w := newWorld(t, sandboxpay.ServerConfig{})
	c := newClient(t, sandboxpay.Config{HTTP: &http.Client{Transport: &losing{through: w.web.Transport, lost: map[string]bool{}}}})
	ctx := t.Context()
	settled := func(what string, call func() (commands.Notice, error), want commands.NoticeKind) {
		t.Helper()
		wantUnavailable(t, what, notices(call()))
		if n, err := call(); err != nil || n.Kind != want {
			t.Errorf("%s again: %+v, %v", what, n, err)
		}
	}
	wantUnavailable(t, "ask", asks(c.Ask(ctx, asking("p-1", 500))))
	if err := asks(c.Ask(ctx, asking("p-1", 500))); err != nil {
		t.Errorf("ask again: %v", err)
	}
	w.pay("p-1", "")
	settled("find", func() (commands.Notice, error) { return c.Find(ctx, "p-1") }, commands.NoticePaid)
	settled("refund", func() (commands.Notice, error) { return c.Refund(ctx, returning("p-1", "r1", 100, 500)) }, commands.NoticeRefunded)
	settled("close", func() (commands.Notice, error) { return c.Close(ctx, "p-2") }, commands.NoticeFailed)
	if st := w.server.Status(); st.Created != 1 || st.Paid != 1 || st.Refunded != 1 || st.Closed != 1 {
		t.Errorf("what was done twice? %+v", st)
	}
}

// each makes every call of the contract against a server that does as told.
func each(t *testing.T, c *sandboxpay.Client, check func(what string, err error)) {
	t.Helper()
	ctx := t.Context()
	check("ask", asks(c.Ask(ctx, asking("p-1", 500))))
	check("find", notices(c.Find(ctx, "p-1")))
	check("close", notices(c.Close(ctx, "p-1")))
	check("refund", notices(c.Refund(ctx, returning("p-1", "r1", 100, 500))))
	_, err := c.Bill(ctx, time.Now())
	check("bill", err)
}

func TestWhatSaysNothingOfThePaymentIsNoRefusal(t *testing.T) {
	for _, answer := range []struct {
		code int
		body string
	}{
		{http.StatusUnauthorized, `{"code":"bad_signature","detail":"no"}`},
		{http.StatusForbidden, `{"code":"wrong_merchant","detail":"no"}`},
		{http.StatusTooManyRequests, `{"code":"busy","detail":"no"}`},
		{http.StatusServiceUnavailable, `{"code":"full","detail":"no"}`},
		{http.StatusInternalServerError, `{"code":"broken","detail":"no"}`},
		{http.StatusBadGateway, `<html>`},
		{http.StatusNotFound, `404 page not found`}, // by a proxy, of another server
		{http.StatusConflict, `{}`},
		{http.StatusFound, ``},
		{http.StatusNoContent, ``},
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(answer.code)
			if _, err := w.Write([]byte(answer.body)); err != nil && answer.body != "" {
				t.Error(err)
			}
		}))
		c := newClient(t, sandboxpay.Config{URL: srv.URL, HTTP: srv.Client()})
		each(t, c, func(what string, err error) {
			wantUnavailable(t, fmt.Sprintf("%s answered by %d %s", what, answer.code, answer.body), err)
		})
		srv.Close()
	}
}

func TestAnAnswerThatMakesNoSenseIsNone(t *testing.T) {
	for _, body := range []string{
		``, `nonsense`, `{}`, `[]`, `null`,
		`{"merchant":"m1","payment":"p-2","status":"pending","refund":"r1"}`,
		`{"merchant":"m2","payment":"p-1","status":"pending","refund":"r1"}`,
		`{"merchant":"m1","payment":"p-1","status":"strange","refund":"r1","amount":100,"currency":"CNY"}`,
		`{"merchant":"m1","payment":"p-1","status":"paid","refund":"r2","trade":"t"}`,
		`{"merchant":"m1","payment":"p-1","status":"paid","refund":"r1","amount":99,"currency":"CNY"}`,
		strings.Repeat(" ", 2<<20),
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(body)) // the client hangs up when it has read enough
		}))
		c := newClient(t, sandboxpay.Config{URL: srv.URL, HTTP: srv.Client()})
		each(t, c, func(what string, err error) {
			if what != "bill" {
				wantUnavailable(t, what+" answered by "+body[:min(len(body), 80)], err)
			}
		})
		srv.Close()
	}
}

func TestNobodyWaitsForEver(t *testing.T) {
	release := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	client := srv.Client()
	client.Timeout = 20 * time.Millisecond
	c := newClient(t, sandboxpay.Config{URL: srv.URL, HTTP: client})
	each(t, c, func(what string, err error) { wantUnavailable(t, what, err) })
	close(release)
	srv.Close()
	each(t, c, func(what string, err error) { wantUnavailable(t, what+" of nobody", err) })
}

func TestAClientLacksNothing(t *testing.T) {
	good := sandboxpay.Config{URL: channelURL, Merchant: "m1", Secret: secret}
	for name, c := range map[string]struct {
		change func(*sandboxpay.Config)
		want   string
	}{
		"all":       {func(c *sandboxpay.Config) { *c = sandboxpay.Config{} }, "lacks URL and Merchant and Secret"},
		"a secret":  {func(c *sandboxpay.Config) { c.Secret, c.OldSecret = "", "old" }, "lacks Secret"},
		"a scheme":  {func(c *sandboxpay.Config) { c.URL = "127.0.0.1:8090" }, "URL"},
		"a host":    {func(c *sandboxpay.Config) { c.URL = "http://" }, "URL"},
		"a query":   {func(c *sandboxpay.Config) { c.URL += "?a=b" }, "URL"},
		"a strange": {func(c *sandboxpay.Config) { c.Merchant = "m 1" }, "merchant"},
	} {
		cfg := good
		c.change(&cfg)
		if _, err := sandboxpay.New(cfg); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
	if _, err := sandboxpay.New(good); err != nil {
		t.Error(err)
	}
}

func TestAWrongAmountIsToldAsItWasPaid(t *testing.T) {
	w := newWorld(t, sandboxpay.ServerConfig{})
	w.ask("p-1", 500)
	w.pay("p-1", `{"outcome":"paid","amount":499,"currency":"USD"}`)
	want := money.Money{Amount: 499, Currency: "USD"}
	if got := w.find("p-1"); got.Money != want {
		t.Errorf("got %+v", got)
	}
	back := commands.Returning{Payment: "p-1", Key: "all", Amount: want, Total: want}
	if n, err := w.client.Refund(t.Context(), back); err != nil || n.Money != want {
		t.Errorf("back: %+v, %v", n, err)
	}
}
