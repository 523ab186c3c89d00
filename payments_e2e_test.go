package main

import (
	"context"
	"fmt"
	"log/slog"
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

	"golang.org/x/sync/errgroup"

	"cartwright/infra/sandboxpay"
)

const paydaySecret = "the-secret-of-the-sandbox"

// A payday is a shop with a sandbox channel on a bad day.
type payday struct {
	*server
	channel *sandboxpay.Server
	address string // of the channel
}

// openPayday starts the channel, and a shop that knows it.
func openPayday(t *testing.T, cfg sandboxpay.ServerConfig) *payday {
	t.Helper()
	var channel atomic.Pointer[sandboxpay.Server]
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { channel.Load().ServeHTTP(w, r) }))
	t.Cleanup(web.Close)
	secretFile := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secretFile, []byte(paydaySecret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	data := t.TempDir()
	sweep(t, data)
	cmd := program(context.WithoutCancel(t.Context()), "serve", "--data", data, "--listen", "127.0.0.1:0")
	cmd.Env = append(cmd.Env, "CARTWRIGHT_SANDBOX_URL="+web.URL, "CARTWRIGHT_SANDBOX_MERCHANT=shop", "CARTWRIGHT_SANDBOX_SECRET_FILE="+secretFile,
		"CARTWRIGHT_POLL_AFTER=2s", "CARTWRIGHT_COMMISSION=250", "CARTWRIGHT_COMPLETE_AFTER=1s")
	p := &payday{server: start(t, data, cmd), address: web.URL}
	cfg.Merchant, cfg.Secret, cfg.NotifyURL = "shop", paydaySecret, p.url+"/v1/channels/sandbox/callback"
	cfg.Log, cfg.Retry = slog.New(slog.DiscardHandler), []time.Duration{100 * time.Millisecond}
	var err error
	if p.channel, err = sandboxpay.NewServer(cfg); err != nil {
		t.Fatal(err)
	}
	channel.Store(p.channel)
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	running.Go(func() {
		if err := p.channel.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		stop()
		running.Wait()
		if err := p.channel.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// buy makes a checkout and a payment of it.
func (p *payday) buy(buyer, sku string) (order, payment string, err error) {
	a, err := p.try("POST", "/v1/order-ids", obj{"buyer_id": buyer})
	if err != nil {
		return "", "", err
	}
	order, _ = a.body["order_id"].(string)
	if a, err = p.try("POST", "/v1/checkouts", checkoutOf(order, buyer, sku), key(order)); err == nil && a.status == http.StatusCreated {
		a, err = p.try("POST", "/v1/checkouts/"+order+"/payments", obj{"channel": "sandbox"}, key(order))
	}
	if err == nil && a.status != http.StatusCreated {
		err = fmt.Errorf("%d %s", a.status, a.raw)
	}
	payment, _ = a.body["payment_id"].(string)
	return order, payment, err
}

// Of all callbacks a fifth is never made, a fifth is made twice, a tenth comes
// late, all are shuffled, and some buyers' payments fail. What was paid is paid
// in the end, what was not is not, and the books say so.
func TestABadChannelLosesNoMoney(t *testing.T) {
	t.Parallel()
	p := openPayday(t, sandboxpay.ServerConfig{
		AutoPay: 100 * time.Millisecond, FailShare: 0.05, Seed: 7, RefundAfter: 50 * time.Millisecond,
		Faults: sandboxpay.Faults{Drop: 0.2, Repeat: 0.2, Late: 0.1, LateBy: 3 * time.Second, Reorder: 10},
	})
	n := soaked(100, 2000)
	for i := range 5 {
		p.offer(fmt.Sprintf("s%d", i), fmt.Sprintf("seller-%d", i), 500, int64(n))
	}
	orders := make([]string, n)
	var g errgroup.Group
	g.SetLimit(8)
	for i := range n {
		g.Go(func() (err error) {
			orders[i], _, err = p.buy(fmt.Sprintf("buyer-%d", i%50), fmt.Sprintf("s%d", i%5))
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	paid := 0
	waitUntil(t, 2*time.Minute, "every payment is paid or has failed", func() bool {
		s := p.channel.Status()
		if s.Paid+s.Failed < n {
			return false
		}
		paid = 0
		for _, id := range orders {
			a := p.ask(http.StatusOK, "GET", "/v1/checkouts/"+id+"/payments", nil)
			if !strings.Contains(a.raw, `"applied":true`) && !strings.Contains(a.raw, `"status":"failed"`) {
				return false
			}
			if strings.Contains(a.raw, `"applied":true`) {
				paid++
			}
		}
		return true
	})
	status := p.channel.Status()
	if paid != status.Paid || status.Dropped == 0 || status.Repeated == 0 || status.Late == 0 {
		t.Errorf("%d orders are paid, the channel says %+v", paid, status)
	}
	t.Logf("%+v", status)
	back := p.refundSome(orders)
	p.reconciles()
	if got := p.channel.Status().Refunded; got != back {
		t.Errorf("%d refunds, the channel made %d", back, got)
	}
}

// refundSome gives back every tenth order that is paid, and says how many.
func (p *payday) refundSome(orders []string) (n int) {
	p.tb.Helper()
	for i, id := range orders {
		if i%10 > 0 || p.ask(http.StatusOK, "GET", "/v1/orders/"+id, nil).body["status"] != "paid" {
			continue
		}
		p.ask(http.StatusCreated, "POST", "/v1/orders/"+id+"/refunds", nil, key("refund"+id))
		n++
		waitUntil(p.tb, time.Minute, "the refund is back", func() bool {
			return strings.Contains(p.ask(http.StatusOK, "GET", "/v1/orders/"+id, nil).raw, `"settled":true`)
		})
	}
	return n
}

// reconciles expects that money and stock add up, by themselves and with the channel's bill.
func (p *payday) reconciles() {
	t, ok := p.tb.(*testing.T)
	if !ok {
		p.tb.Fatal("no test")
	}
	t.Helper()
	client, err := sandboxpay.New(sandboxpay.Config{URL: p.address, Merchant: "shop", Secret: paydaySecret})
	if err != nil {
		t.Fatal(err)
	}
	bill, err := client.Bill(t.Context(), time.Now().UTC())
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "bill.csv")
	if err := os.WriteFile(file, bill, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, code := tool(t, "reconcile", "--data", p.data, "--bill", file, "--channel", "sandbox"); code != 0 {
		t.Errorf("exit %d: %s", code, out)
	}
	lines := strings.SplitAfter(string(bill), "\n")
	if err := os.WriteFile(file, []byte(strings.Join(slices.Delete(lines, 2, 3), "")), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, code := tool(t, "reconcile", "--data", p.data, "--bill", file, "--channel", "sandbox", "--json"); code != exitDifferences {
		t.Errorf("a line is missing from the bill: exit %d: %s", code, out)
	}
}

func waitUntil(tb testing.TB, most time.Duration, what string, so func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(most); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if so() {
			return
		}
	}
	tb.Fatalf("it never came to be: %s", what)
}
