package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"cartwright/commands"
	"cartwright/commands/reconcile"
	"cartwright/domain/account"
	"cartwright/domain/catalog"
	"cartwright/domain/inventory"
	"cartwright/domain/personal"
)

// reconciling runs the command in this process, on a data folder.
func reconciling(t *testing.T, data string, args ...string) (out string, code int) {
	t.Helper()
	cfg, err := readConfig()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Data = data
	cmd := newReconcileCommand(cfg)
	var text bytes.Buffer
	cmd.SetOut(&text)
	cmd.SetErr(&text)
	cmd.SetArgs(append([]string{}, args...)) // nil would be the test's own
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage(err) })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err = cmd.ExecuteContext(ctx)
	if err != nil {
		t.Logf("reconcile %s: %v", strings.Join(args, " "), err)
	}
	return text.String(), exitOf(err)
}

// reconciledJSON is reconciling for scripts.
func reconciledJSON(t *testing.T, data string, want int, args ...string) (got reconciled) {
	t.Helper()
	out, code := reconciling(t, data, append(args, "--json")...)
	if code != want {
		t.Fatalf("exit %d, want %d: %s", code, want, out)
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return got
}

// sellOne sells one order from a balance, in a data folder of nobody's, and follows
// it up or leaves it as it is.
func sellOne(t *testing.T, data string, follow bool) (id string) {
	t.Helper()
	cfg, err := readConfig()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Data = data
	ctx := t.Context()
	s, err := openSystem(ctx, cfg, needs{log: true, shop: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if cerr := s.close(context.WithoutCancel(ctx)); cerr != nil {
			t.Error(cerr)
		}
	}()
	n := 0
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	named := func() commands.Request { n++; return commands.Request{Cause: fmt.Sprintf("sell/%d", n)} }
	_, err = s.shop.PublishOffer(ctx, named(), "a", catalog.Publish{OnSale: true, Snapshot: catalog.Snapshot{
		Seller: "s-1", Title: "A", Currency: "BRL", UnitPrice: 100,
	}})
	must(err)
	_, err = s.shop.Inventory(ctx, named(), "a", inventory.Receive{Quantity: 5})
	must(err)
	_, err = s.shop.Account(ctx, named(), "buyer-1", account.Open{Account: "buyer-1", Currency: "BRL"})
	must(err)
	_, err = s.shop.Account(ctx, named(), "buyer-1", account.Deposit{Amount: 500, Currency: "BRL", Journal: "fund"})
	must(err)
	order, _, err := s.shop.DrawOrderID(ctx, named(), "buyer-1")
	must(err)
	_, err = s.shop.Checkout(ctx, named(), commands.Checkout{
		Order: order, Buyer: "buyer-1", Items: []commands.Item{{SKU: "a", Quantity: 2}},
		Address: personal.Address{Name: "N", Line1: "L", City: "C", Country: "BR"},
	})
	must(err)
	_, err = s.shop.Pay(ctx, named(), order, nil)
	must(err)
	if follow {
		for e, err := range s.store.All(ctx, 0, "order-", "account-") {
			must(err)
			must(s.shop.React(ctx, e))
		}
	}
	return string(order)
}

func TestReconcileFindsNothingInASoundShop(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	if got := reconciledJSON(t, data, 0, "--grace", "0"); got.Events != 0 || len(got.Totals) != 0 {
		t.Errorf("of nothing: %+v", got)
	}
	sellOne(t, data, true)
	got := reconciledJSON(t, data, 0, "--grace", "0")
	if !got.Sound() || got.Orders["paid"] != 1 || got.SKUs != 1 || len(got.Totals) != 1 || got.Totals[0].Paid != 200 || got.Repair != nil {
		t.Errorf("got %+v", got)
	}
	out, code := reconciling(t, data)
	for _, want := range []string{
		"orders    1 paid\n", "BRL, in minor units", "200 paid, 0 refunded", "escrow         1   200          200        0",
		"together               0            0", "0 differences, 0 under way\n",
	} {
		if code != 0 || !strings.Contains(out, want) {
			t.Errorf("exit %d, no %q in:\n%s", code, want, out)
		}
	}
}

func TestReconcileMendsWhatWasLeftHalfDone(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	id := sellOne(t, data, false)
	if got := reconciledJSON(t, data, 0); len(got.UnderWay) != 2 {
		t.Errorf("within the grace: %+v", got.Report)
	}
	got := reconciledJSON(t, data, exitDifferences, "--grace", "0")
	if len(got.Findings) != 2 || got.Findings[0].Kind != reconcile.JournalHalf || got.Findings[1].Kind != reconcile.OrderUnfinished || got.Findings[1].Order != id {
		t.Fatalf("got %+v", got.Findings)
	}
	out, code := reconciling(t, data, "--grace", "0", "--repair")
	for _, want := range []string{
		"journal_half journal fund account buyer-1", "order_unfinished order " + id, "would be followed up again: account-buyer-1",
		"would be followed up again: order-" + id, "nothing was done: that takes --yes", "2 differences, 0 under way\n",
	} {
		if code != exitDifferences || !strings.Contains(out, want) {
			t.Errorf("exit %d, no %q in:\n%s", code, want, out)
		}
	}
	before := got.Position
	if got = reconciledJSON(t, data, exitDifferences, "--grace", "0", "--repair"); got.Position != before || !got.Repair.Dry || len(got.Repair.Streams) != 2 {
		t.Fatalf("a dry repair did something: %+v", got)
	}
	got = reconciledJSON(t, data, 0, "--grace", "0", "--repair", "--yes")
	if got.Position <= before || got.Repair.Dry || len(got.Repair.Streams) != 2 || got.Repair.Streams[0].Failed != "" {
		t.Errorf("got %+v", got)
	}
	if out, code = reconciling(t, data, "--grace", "0", "--repair", "--yes"); code != 0 || strings.Contains(out, "followed up") {
		t.Errorf("exit %d: %s", code, out)
	}
}

func TestReconcileWorksBesideARunningServer(t *testing.T) {
	t.Parallel()
	s := serve(t, t.TempDir())
	s.offer("a", "seller-1", 100, 5)
	s.fund(1000)
	id := s.orderID("buyer-1")
	s.ask(http.StatusCreated, "POST", "/v1/checkouts", checkoutOf(id, "buyer-1", "a"), key("c"))
	s.ask(http.StatusOK, "POST", "/v1/checkouts/"+id+"/pay", nil, key("p"))
	eventually(t, "it adds up", func() bool {
		out, code := reconciling(t, s.data, "--grace", "0", "--json")
		return code == 0 && strings.Contains(out, `"paid":1`)
	})
	if got := reconciledJSON(t, s.data, 0, "--grace", "0", "--repair", "--yes"); len(got.Repair.Streams) != 0 {
		t.Errorf("got %+v", got)
	}
	s.stop()
}

func TestReconcileComparesABill(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	bill := filepath.Join(t.TempDir(), "bill.csv")
	text := "time,kind,trade,payment,refund,amount,currency\n" +
		"2026-03-13T23:59:59Z,payment,t-0,p-0,,5,BRL\n2026-03-14T00:00:00Z,payment,t-1,p-1,,5,BRL\n2026-03-15T00:00:00Z,refund,t-1,p-1,r,5,BRL\n"
	if err := os.WriteFile(bill, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got := reconciledJSON(t, data, exitDifferences, "--bill", bill, "--channel", "bank")
	if len(got.Findings) != 3 || got.Findings[0].Kind != reconcile.BillMissing || got.Bill.Missing != 3 {
		t.Errorf("got %+v", got)
	}
	got = reconciledJSON(t, data, exitDifferences, "--bill", bill, "--channel", "bank", "--from", "2026-03-14", "--to", "2026-03-15")
	if len(got.Findings) != 1 || got.Findings[0].Trade != "t-1" || got.Findings[0].Line != 3 {
		t.Errorf("of one day: %+v", got.Findings)
	}
	out, code := reconciling(t, data, "--bill", bill, "--channel", "bank")
	if want := "bill of bank, 2026-03-13T23:59:59Z to 2026-03-15T00:00:00Z: 3 rows, 0 agree, 0 differ, 0 twice, 3 missing here"; code != exitDifferences || !strings.Contains(out, want) {
		t.Errorf("exit %d: %s", code, out)
	}
}

func TestReconcileRefusesWhatMakesNoSense(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	bad := filepath.Join(data, "bad.csv")
	if err := os.WriteFile(bad, []byte("time,kind\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(data, "empty.csv")
	if err := os.WriteFile(empty, []byte("time,kind,trade,payment,refund,amount,currency\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"more", "--grace -1s", "--grace soon", "--yes", "--channel bank", "--from 2026-03-14", "--bill " + bad,
		"--bill nowhere.csv --channel bank", "--bill " + bad + " --channel bank", "--bill " + empty + " --channel bank",
		"--bill " + empty + " --channel bank --from today --to 2026-03-14",
		"--bill " + empty + " --channel bank --from 2026-03-15 --to 2026-03-14", "--bill " + empty + " --channel bank --from 2026-03-15",
	} {
		if out, code := reconciling(t, data, strings.Fields(line)...); code != exitUsage || out != "" {
			t.Errorf("%s: exit %d, %q", line, code, out)
		}
	}
	if out, code := reconciling(t, data, "--bill", empty, "--channel", "bank", "--from", "2026-03-14", "--to", "2026-03-15"); code != 0 {
		t.Errorf("an empty bill of an empty day: exit %d, %s", code, out)
	}
}
