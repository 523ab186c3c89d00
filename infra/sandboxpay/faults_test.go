package sandboxpay_test

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"cartwright/commands"
	"cartwright/infra/sandboxpay"
)

// quiet waits until no callback is to be made any more. Time in the bubble runs
// as fast as it can.
func (w *world) quiet() {
	w.tb.Helper()
	for range 100_000 {
		synctest.Wait()
		if w.server.Status().Waiting == 0 {
			return
		}
		time.Sleep(time.Second) // in the bubble
	}
	w.tb.Fatalf("callbacks are still to be made: %+v", w.server.Status())
}

// paidIDs have so many payments asked for and paid, in the order of the ids or
// all at once.
func (w *world) paidIDs(n int, atOnce bool) {
	w.tb.Helper()
	var wg sync.WaitGroup
	for i := range n {
		one := func() {
			id := fmt.Sprintf("p-%04d", i)
			w.ask(id, int64(100+i))
			w.pay(id, "")
		}
		if atOnce {
			wg.Go(one)
		} else {
			one()
		}
	}
	wg.Wait()
}

var someFaults = sandboxpay.Faults{Drop: 0.2, Repeat: 0.2, Late: 0.1, LateBy: 5 * time.Second}

func TestFaultsAreCountedAsTheyAreMet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 2000
		w := newWorld(t, sandboxpay.ServerConfig{Faults: someFaults, Seed: 42})
		began := time.Now()
		w.paidIDs(n, false)
		defer w.run()()
		w.quiet()
		st, late, twice := w.server.Status(), 0, 0
		first := map[string]bool{}
		for _, c := range w.shop.heard() {
			switch {
			case first[c.Payment]:
				twice++
			case c.at.Sub(began) >= someFaults.LateBy:
				late++
			}
			first[c.Payment] = true
		}
		want := sandboxpay.Status{
			Merchant: "m1", Created: n, Paid: n, CalledBack: len(first), Dropped: n - len(first), Repeated: twice, Late: late,
		}
		if diff := cmp.Diff(want, st); diff != "" {
			t.Errorf("counted otherwise than met (-met +counted):\n%s", diff)
		}
		for what, c := range map[string]struct {
			got   int
			share float64
		}{"dropped": {st.Dropped, 0.2}, "repeated": {st.Repeated, 0.2}, "late": {st.Late, 0.1}} {
			if sd := math.Sqrt(n * c.share * (1 - c.share)); math.Abs(float64(c.got)-n*c.share) > 4*sd {
				t.Errorf("%d of %d are %s, of which %.0f%% was told", c.got, n, what, 100*c.share)
			}
		}
	})
}

func TestAShareOfNoneAndOfAllIsExact(t *testing.T) {
	for name, c := range map[string]struct {
		faults sandboxpay.Faults
		heard  int
	}{
		"none":         {sandboxpay.Faults{}, 300},
		"all dropped":  {sandboxpay.Faults{Drop: 1}, 0},
		"all repeated": {sandboxpay.Faults{Repeat: 1, LateBy: time.Second}, 600},
		"all late":     {sandboxpay.Faults{Late: 1, LateBy: time.Second}, 300},
		"all of three": {sandboxpay.Faults{Drop: 0.7, Repeat: 0.2, Late: 0.1, LateBy: time.Second}, -1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, sandboxpay.ServerConfig{Faults: c.faults})
				defer w.run()()
				w.paidIDs(300, true)
				w.quiet()
				st := w.server.Status()
				if got := len(w.shop.heard()); got != c.heard && c.heard >= 0 {
					t.Errorf("heard %d callbacks, want %d: %+v", got, c.heard, st)
				}
				if befell := st.Dropped + st.Repeated + st.Late; c.heard < 0 && befell != 300 {
					t.Errorf("something befell %d of 300", befell)
				}
			})
		})
	}
}

func TestTheSameSeedBringsTheSameFaults(t *testing.T) {
	met := func(t *testing.T, seed uint64, atOnce bool) (times map[string]int) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, sandboxpay.ServerConfig{Faults: someFaults, Seed: seed})
			defer w.run()()
			w.paidIDs(400, atOnce)
			w.quiet()
			times = w.shop.byPayment()
		})
		return times
	}
	one := met(t, 7, false)
	if diff := cmp.Diff(one, met(t, 7, true)); diff != "" {
		t.Errorf("with the same seed, all at once:\n%s", diff)
	}
	if cmp.Equal(one, met(t, 8, false)) {
		t.Error("with another seed the faults are the same")
	}
}

func TestCallbacksStopAtSuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		retry := []time.Duration{time.Second, 2 * time.Second, 5 * time.Second}
		w := newWorld(t, sandboxpay.ServerConfig{Retry: retry})
		w.shop.fails = func(_ commands.Notice, try int) error {
			if try < 5 {
				return errors.New("not now")
			}
			return nil
		}
		began := time.Now()
		w.paidIDs(1, false)
		defer w.run()()
		w.quiet()
		time.Sleep(time.Hour) // in the bubble
		var waits []time.Duration
		for _, c := range w.shop.heard() {
			waits = append(waits, c.at.Sub(began))
			if c.Notice != w.find("p-0000") {
				t.Errorf("called back %+v, found %+v", c.Notice, w.find("p-0000"))
			}
		}
		// 1, 2 and 5 seconds later, and every 5 from then on.
		want := []time.Duration{0, 1e9, 3e9, 8e9, 13e9, 18e9}
		if !slices.Equal(waits, want) {
			t.Errorf("called back after %v, want %v", waits, want)
		}
		if st := w.server.Status(); st.CalledBack != 1 || st.Refused != 5 || st.Waiting != 0 {
			t.Errorf("counted: %+v", st)
		}
	})
}

func TestCallbacksAreShuffledInTheirWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const window = 50
		w := newWorld(t, sandboxpay.ServerConfig{Workers: 1, Seed: 3, Faults: sandboxpay.Faults{Reorder: window, Gather: 3 * time.Second}})
		defer w.run()()
		w.paidIDs(2*window+7, false) // the last window is not full, and waits
		began := time.Now()
		w.quiet()
		heard := w.shop.heard()
		if len(heard) != 2*window+7 {
			t.Fatalf("heard %d callbacks", len(heard))
		}
		if got := heard[len(heard)-1].at.Sub(began); got < 3*time.Second {
			t.Errorf("the last were sent off after %s, without waiting for more", got)
		}
		inOrder := 0
		for i, c := range heard {
			var number int
			if _, err := fmt.Sscanf(c.Payment, "p-%d", &number); err != nil {
				t.Fatal(err)
			}
			if number/window != i/window {
				t.Errorf("%s came as number %d, out of its window", c.Payment, i)
			}
			if number == i {
				inOrder++
			}
		}
		if inOrder > len(heard)/4 {
			t.Errorf("%d of %d came in their turn", inOrder, len(heard))
		}
	})
}

func TestPaymentsPayThemselvesAndSomeFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 1000
		w := newWorld(t, sandboxpay.ServerConfig{AutoPay: 2 * time.Second, FailShare: 0.1, Seed: 5})
		defer w.run()()
		for i := range n {
			w.ask(fmt.Sprintf("p-%04d", i), 100)
		}
		if n, err := w.client.Close(t.Context(), "p-0000"); err != nil || n.Kind != commands.NoticeFailed {
			t.Errorf("close: %+v, %v", n, err)
		}
		time.Sleep(2*time.Second - 1) // in the bubble
		synctest.Wait()
		if st := w.server.Status(); st.Paid+st.Failed > 0 {
			t.Errorf("paid too early: %+v", st)
		}
		time.Sleep(time.Nanosecond)
		w.quiet()
		st := w.server.Status()
		if st.Paid+st.Failed != n-1 || st.Failed < 60 || st.Failed > 140 || st.CalledBack != n-1 {
			t.Errorf("counted: %+v", st)
		}
		for _, c := range w.shop.heard() {
			if found := w.find(c.Payment); found != c.Notice {
				t.Errorf("called back %+v, found %+v", c.Notice, found)
			}
		}
	})
}

func TestAPaymentExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, sandboxpay.ServerConfig{Faults: sandboxpay.Faults{ExpireAfter: time.Minute}})
		stop := w.run()
		early := asking("early", 100)
		early.Expires = time.Now().Add(10 * time.Second)
		if _, err := w.client.Ask(t.Context(), early); err != nil {
			t.Fatal(err)
		}
		w.ask("late", 100)
		w.ask("paid", 100)
		w.pay("paid", "")
		time.Sleep(10 * time.Second) // in the bubble
		synctest.Wait()
		if n := w.find("early"); n.Kind != commands.NoticeFailed || n.Note != "expired" {
			t.Errorf("early: %+v", n)
		}
		if n := w.find("late"); n.Kind != commands.NoticePending {
			t.Errorf("late: %+v", n)
		}
		stop()
		time.Sleep(50 * time.Second) // nobody keeps the diary, and it has expired all the same
		if code, said := w.send("POST", "/pay/late", ""); code != 409 || codeOf(t, said) != "not_payable" {
			t.Errorf("paid late: %d %s", code, said)
		}
		if n := w.find("paid"); n.Kind != commands.NoticePaid {
			t.Errorf("paid: %+v", n)
		}
		wantRefused(t, "ask again", asks(w.client.Ask(t.Context(), asking("late", 100))), "not_payable")
		defer w.run()()
		w.quiet()
		if got := w.shop.byPayment(); !cmp.Equal(got, map[string]int{"early": 1, "late": 1, "paid": 1}) {
			t.Errorf("heard of %v", got)
		}
	})
}

func TestARefundIsPendingForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, sandboxpay.ServerConfig{RefundAfter: time.Minute, RefundFailShare: 0.5, Seed: 1})
		defer w.run()()
		w.ask("p-1", 10_000)
		w.pay("p-1", "")
		refund := func(key string) commands.Notice {
			n, err := w.client.Refund(t.Context(), returning("p-1", key, 100, 10_000))
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		var keys []string
		for i := range 50 {
			keys = append(keys, fmt.Sprintf("r.%d", i))
			if n := refund(keys[i]); n.Kind != commands.NoticePending || n.Refund != keys[i] || n.Money != yuan(100) {
				t.Fatalf("at once: %+v", n)
			}
		}
		wantRefused(t, "more than is left", notices(w.client.Refund(t.Context(), returning("p-1", "more", 5001, 10_000))), "too_much")
		time.Sleep(time.Minute) // in the bubble
		w.quiet()
		kinds := map[commands.NoticeKind]int64{}
		for _, key := range keys {
			kinds[refund(key).Kind]++
		}
		if done, bad := kinds[commands.NoticeRefunded], kinds[commands.NoticeRefundFailed]; done+bad != 50 || done < 10 || bad < 10 {
			t.Errorf("refunds became %v", kinds)
		}
		for _, c := range w.shop.heard() {
			if c.Refund != "" && c.Notice != refund(c.Refund) {
				t.Errorf("called back %+v, found %+v", c.Notice, refund(c.Refund))
			}
		}
		// What failed may be given back under another key.
		left := 10_000 - 100*kinds[commands.NoticeRefunded]
		if n, err := w.client.Refund(t.Context(), returning("p-1", "rest", left, 10_000)); err != nil || n.Kind != commands.NoticePending {
			t.Errorf("the rest: %+v, %v", n, err)
		}
	})
}

func TestASlowShopHoldsUpNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, sandboxpay.ServerConfig{Workers: 4, CallWait: 2 * time.Second, AutoPay: time.Second})
		var mu sync.Mutex
		under, most := 0, 0
		w.shop.fails = func(commands.Notice, int) error {
			mu.Lock()
			under++
			most = max(most, under)
			mu.Unlock()
			time.Sleep(time.Second) // in the bubble
			mu.Lock()
			under--
			mu.Unlock()
			return nil
		}
		defer w.run()()
		for i := range 40 {
			w.ask(fmt.Sprintf("p-%d", i), 100)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if st := w.server.Status(); st.Paid != 40 {
			t.Errorf("payments wait for callbacks: %+v", st)
		}
		w.quiet()
		if most != 4 || len(w.shop.heard()) != 40 {
			t.Errorf("%d at once, %d heard", most, len(w.shop.heard()))
		}
	})
}

func TestTheSandboxRunsOnceAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, sandboxpay.ServerConfig{})
		stop := w.run()
		synctest.Wait()
		if err := w.server.Run(t.Context()); err == nil {
			t.Error("it ran twice")
		}
		stop()
		w.paidIDs(3, false)
		if len(w.shop.heard()) != 0 {
			t.Error("callbacks were made after the end")
		}
		defer w.run()()
		w.quiet()
		if len(w.shop.heard()) != 3 {
			t.Errorf("heard %v", w.shop.heard())
		}
	})
}
