package sandboxpay_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"cartwright/commands"
	"cartwright/infra/sandboxpay"
)

// killed is the folder as it would be found if the sandbox were killed now.
func killed(t *testing.T, dir string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, "journal.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	return folderOf(t, raw)
}

func folderOf(t *testing.T, journal []byte) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "journal.jsonl"), journal, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// state is all that can be asked of some payments, and the bill.
func (w *world) state(ids ...string) map[string]string {
	w.tb.Helper()
	all := map[string]string{}
	for _, id := range ids {
		_, all[id] = w.signed("GET", "/v1/payments/"+id, "")
		_, all[id+"/r"] = w.signed("GET", "/v1/payments/"+id+"/refunds/r", "")
	}
	_, all["bill"] = w.signed("GET", "/v1/bills/"+time.Now().UTC().Format(time.DateOnly)+".csv", "")
	return all
}

func TestWhatWasAnsweredIsThereAfterAKill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		one := newWorld(t, sandboxpay.ServerConfig{Dir: dir})
		ids := []string{"pending", "paid", "failed", "closed", "never-asked", "returned"}
		for _, id := range ids {
			if id != "never-asked" {
				one.ask(id, 500)
			}
		}
		one.pay("paid", "")
		one.pay("returned", `{"amount":600}`)
		one.pay("failed", `{"outcome":"failed"}`)
		for _, id := range []string{"closed", "never-asked"} {
			if _, err := one.client.Close(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := one.client.Refund(t.Context(), returning("returned", "r", 100, 600)); err != nil {
			t.Fatal(err)
		}
		before := one.state(ids...)
		two := newWorld(t, sandboxpay.ServerConfig{Dir: killed(t, dir)})
		if diff := cmp.Diff(before, two.state(ids...)); diff != "" {
			t.Errorf("after the kill (-before +after):\n%s", diff)
		}
		if strings.Contains(fmt.Sprint(before), "unknown_payment") {
			t.Errorf("something was not there: %v", before)
		}
		// What was asked before is found, and not done twice.
		two.ask("pending", 500)
		two.pay("paid", "")
		wantRefused(t, "refund again", notices(two.client.Refund(t.Context(), returning("returned", "more", 501, 600))), "too_much")
		if diff := cmp.Diff(before, two.state(ids...)); diff != "" {
			t.Errorf("after the repeats:\n%s", diff)
		}
	})
}

func TestCallbacksThatNobodyAcknowledgedComeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := sandboxpay.ServerConfig{Dir: t.TempDir(), AutoPay: time.Second, RefundAfter: time.Minute, Faults: sandboxpay.Faults{Drop: 0.3}, Seed: 2}
		one := newWorld(t, cfg)
		one.shop.fails = func(n commands.Notice, _ int) error {
			if n.Payment[2]%2 == 0 {
				return errors.New("not this one")
			}
			return nil
		}
		stop := one.run()
		for i := range 10 {
			one.ask(fmt.Sprintf("p-%d", i), 100)
		}
		time.Sleep(2 * time.Second) // in the bubble
		synctest.Wait()
		if _, err := one.client.Refund(t.Context(), returning("p-1", "r", 100, 100)); err != nil {
			t.Fatal(err)
		}
		one.ask("p-x", 100) // is paid after the restart
		stop()
		if err := one.server.Close(); err != nil {
			t.Fatal(err)
		}
		dropped := one.server.Status().Dropped
		if dropped == 0 || dropped > 9 {
			t.Fatalf("%d of 10 are dropped, which shows nothing", dropped)
		}

		cfg.Faults, cfg.Seed = sandboxpay.Faults{}, 77 // what was dropped stays so
		two := newWorld(t, cfg)
		defer two.run()()
		time.Sleep(2 * time.Minute)
		two.quiet()
		want := map[string]int{"p-x": 1, "p-1": 1}
		for id := range one.shop.byPayment() {
			if id[2]%2 == 0 {
				want[id] = 1
			}
		}
		if diff := cmp.Diff(want, two.shop.byPayment()); diff != "" {
			t.Errorf("heard after the restart (-want +got):\n%s", diff)
		}
		if n := two.find("p-x"); n.Kind != commands.NoticePaid {
			t.Errorf("p-x: %+v", n)
		}
		if st := two.server.Status(); st.Created != 11 || st.Paid != 11 || st.Refunded != 1 {
			t.Errorf("counted: %+v", st)
		}
	})
}

// aJournal is one with a few lines, and its folder.
func aJournal(t *testing.T) []byte {
	t.Helper()
	dir := t.TempDir()
	w := newWorld(t, sandboxpay.ServerConfig{Dir: dir})
	w.ask("p-1", 500)
	w.ask("p-2", 500)
	w.pay("p-1", "")
	raw, err := os.ReadFile(filepath.Join(dir, "journal.jsonl"))
	if err != nil || bytes.Count(raw, []byte("\n")) != 4 {
		t.Fatalf("%s, %v", raw, err)
	}
	return raw
}

func TestATornLastLineIsCutOff(t *testing.T) {
	whole := aJournal(t)
	last := bytes.LastIndexByte(whole[:len(whole)-1], '\n') + 1
	for end := last; end < len(whole); end += max(1, (len(whole)-last)/7) {
		dir := folderOf(t, whole[:end])
		w := newWorld(t, sandboxpay.ServerConfig{Dir: dir})
		if n := w.find("p-1"); n.Kind != commands.NoticePending {
			t.Errorf("of %d bytes: %+v", end, n)
		}
		w.pay("p-1", "")
		again := newWorld(t, sandboxpay.ServerConfig{Dir: killed(t, dir)})
		if n := again.find("p-1"); n.Kind != commands.NoticePaid || n != w.find("p-1") {
			t.Errorf("paid behind the cut at %d: %+v", end, n)
		}
	}
	// Nothing but a torn first line is a new journal.
	w := newWorld(t, sandboxpay.ServerConfig{Dir: folderOf(t, whole[:10])})
	w.ask("p-1", 700)
}

func TestADamagedJournalIsRefused(t *testing.T) {
	whole := string(aJournal(t))
	lines := strings.SplitAfter(whole, "\n")
	for name, c := range map[string]struct{ journal, want string }{
		"a line in the middle":   {lines[0] + "{\n" + lines[1], "line 2"},
		"two lines in one":       {lines[0] + strings.TrimSpace(lines[1]) + lines[2], "line 2"},
		"a line that is missing": {lines[0] + lines[2] + lines[3], `"p-1"`},
		"a line twice":           {whole + lines[3], "line 5"},
		"a deed of tomorrow":     {lines[0] + `{"do":"danced"}` + "\n", "danced"},
		"no first line":          {lines[1] + lines[2], "line 1"},
		"another format":         {strings.Replace(whole, `"format":1`, `"format":2`, 1), "format"},
		"another merchant's":     {strings.Replace(whole, `"m1"`, `"m2"`, 1), "m2"},
		"a callback of nobody":   {whole + `{"do":"called","call":7}` + "\n", "callback 7"},
		"a refund of nothing":    {whole + `{"do":"refund","payment":"p-1","refund":"r"}` + "\n", "line 5"},
		"a refund of too much":   {whole + `{"do":"refund","payment":"p-1","refund":"r","amount":501}` + "\n", "line 5"},
		"a refund that was not":  {whole + `{"do":"refunded","payment":"p-1","refund":"r"}` + "\n", "line 5"},
		"a refund of unpaid":     {whole + `{"do":"refund","payment":"p-2","refund":"r","amount":1}` + "\n", "not paid"},
	} {
		dir := folderOf(t, []byte(c.journal))
		_, err := sandboxpay.NewServer(sandboxpay.ServerConfig{Merchant: "m1", Secret: secret, Dir: dir})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
		if left, rerr := os.ReadFile(filepath.Join(dir, "journal.jsonl")); rerr != nil || string(left) != c.journal {
			t.Errorf("%s: the journal was changed", name)
		}
	}
}

func TestTwoSandboxesShareNoFolder(t *testing.T) {
	dir := t.TempDir()
	cfg := sandboxpay.ServerConfig{Merchant: "m1", Secret: secret, Dir: dir}
	one, err := sandboxpay.NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = sandboxpay.NewServer(cfg); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("the second: %v", err)
	}
	for range 2 {
		if err = one.Close(); err != nil {
			t.Error(err)
		}
	}
	two, err := sandboxpay.NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err = two.Close(); err != nil {
		t.Error(err)
	}
}

func TestWhatCantBeWrittenIsNotAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, sandboxpay.ServerConfig{Dir: t.TempDir()})
		w.ask("p-1", 500)
		if err := w.server.Close(); err != nil { // from now on nothing can be written
			t.Fatal(err)
		}
		if code, said := w.send("POST", "/pay/p-1", ""); code != 500 || codeOf(t, said) != "broken" {
			t.Errorf("pay: %d %s", code, said)
		}
		_, err := w.client.Find(t.Context(), "p-1")
		wantUnavailable(t, "find what is not on disk", err)
		if err := w.server.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "journal") {
			t.Errorf("run: %v", err)
		}
		if len(w.shop.heard()) > 0 {
			t.Error("what is not on disk was called back")
		}
	})
}

// Lives of payments, cut off at any byte: what is left is a beginning of the
// life, and the sandbox goes on from there.
func TestAJournalCutOffAnywhereIsABeginning(t *testing.T) {
	dir := t.TempDir()
	w := newWorld(t, sandboxpay.ServerConfig{Dir: dir, Seed: 9, RefundFailShare: 0.3})
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		id := fmt.Sprintf("p-%d", rnd.IntN(30))
		switch rnd.IntN(4) {
		case 0:
			_, _ = w.client.Ask(t.Context(), asking(id, 500)) // some are refused, which is well
		case 1:
			w.send("POST", "/pay/"+id, "")
		case 2:
			_, _ = w.client.Refund(t.Context(), returning(id, fmt.Sprintf("r%d", rnd.IntN(5)), 1+rnd.Int64N(200), 500))
		case 3:
			if rnd.IntN(5) == 0 {
				_, _ = w.client.Close(t.Context(), id)
			}
		}
	}
	whole, err := os.ReadFile(filepath.Join(dir, "journal.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	if st := w.server.Status(); st.Paid < 10 || st.Refunded < 10 || st.RefundsFailed < 3 || st.Closed < 3 {
		t.Fatalf("the lives show too little: %+v", st)
	}
	for range 40 {
		cut := newWorld(t, sandboxpay.ServerConfig{Dir: folderOf(t, whole[:rnd.IntN(len(whole))])})
		if got, all := cut.server.Status(), w.server.Status(); got.Created > all.Created || got.Paid > all.Paid || got.Refunded > all.Refunded {
			t.Errorf("a beginning has more than the whole: %+v of %+v", got, all)
		}
	}
}
