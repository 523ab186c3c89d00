package main

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A stall is a server that answers at once, but for one request.
func stall(at int64, lasts time.Duration) func(context.Context, *arrival) error {
	return func(_ context.Context, a *arrival) error {
		a.ready()
		if a.n == at {
			time.Sleep(lasts)
		}
		a.ended(nil)
		return nil
	}
}

func TestAStallIsInTheFiguresOfAllWhoCameMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		closed, open := newTape(), newTape()
		// A hundred a second for ten seconds; the two hundredth takes a second.
		if err := (pace{atOnce: 1, rate: 100, lasts: 10 * time.Second}).drive(t.Context(), open, stall(200, time.Second)); err != nil {
			t.Fatal(err)
		}
		got := open.all()
		if got.done != 1000 || got.answered() != 1000 || got.loop.Due != 1000 || got.loop.NotBegun != 0 {
			t.Fatalf("done %d, answered %d, loop %+v", got.done, got.answered(), got.loop)
		}
		// It takes 1 s itself; those of the second behind it wait 990, 980, … 10 ms
		// and the last of these not at all.
		if got.loop.Late != 99 || got.loop.Behind != 990 {
			t.Errorf("behind their time began %d, by %v ms at most", got.loop.Late, got.loop.Behind)
		}
		l := latencyOf(got.latency[""])
		if l.Mean < 50 || l.Mean > 51 || l.P90 > 2 || l.P99 < 890 || l.P99 > 910 || l.Max < 999 || l.Max > 1001 {
			t.Errorf("latency %+v", l)
		}
		// As often in a closed loop: one of a thousand was slow, says that one.
		if err := (pace{atOnce: 1, count: 1000}).drive(t.Context(), closed, stall(200, time.Second)); err != nil {
			t.Fatal(err)
		}
		if l := latencyOf(closed.all().latency[""]); l.P99 > 1 || l.Max < 999 {
			t.Errorf("latency of the closed loop %+v", l)
		}
	})
}

func TestWhatCouldNotBeBegunIsCountedWithItsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// Four places and half a second each make 8 a second, and 10 are due.
		on := newTape()
		began := time.Now()
		err := pace{atOnce: 4, rate: 10, lasts: 10 * time.Second}.drive(t.Context(), on, func(_ context.Context, a *arrival) error {
			time.Sleep(500 * time.Millisecond)
			a.ended(nil)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		got := on.all()
		if took := time.Since(began); took > 11*time.Second || on.took != took {
			t.Errorf("it went on for %s (%s)", took, on.took)
		}
		if got.loop.Due != 100 || got.loop.NotBegun < 15 || got.loop.NotBegun > 20 || got.done != 100-got.loop.NotBegun || got.answered() != got.done {
			t.Errorf("done %d, %+v", got.done, got.loop)
		}
		if l := latencyOf(got.latency[""]); l.Samples != 100 || l.Max < 2000 || got.loop.Late == 0 {
			t.Errorf("%+v, %+v", l, got.loop)
		}
	})
}

func TestACountedOpenLoopIsDoneToItsLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		on := newTape()
		var underWay, most atomic.Int64
		err := pace{atOnce: 3, rate: 1000, count: 90}.drive(t.Context(), on, func(_ context.Context, a *arrival) error {
			most.Store(max(most.Load(), underWay.Add(1)))
			defer underWay.Add(-1)
			time.Sleep(time.Second)
			a.ended(nil)
			return nil
		})
		if err != nil || on.all().done != 90 || most.Load() != 3 || on.took < 30*time.Second || on.took > 31*time.Second {
			t.Errorf("%v: %d done in %s, %d at once", err, on.all().done, on.took, most.Load())
		}
	})
}

func TestHowAnOperationEndedIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		on := newTape()
		ends := []error{nil, &refusalError{status: http.StatusConflict, slug: "out_of_stock"}, &refusalError{status: http.StatusBadGateway}, errors.New("reset")}
		err := pace{atOnce: 2, count: 40}.drive(t.Context(), on, func(_ context.Context, a *arrival) error {
			a.ready()
			a.step("part", time.Millisecond)
			a.again(ends[1])
			a.ended(ends[a.n%4])
			return nil
		})
		got := on.all()
		if err != nil || got.done != 10 || got.answered() != 30 || got.errors["out_of_stock"] != 10 || got.errors["502"] != 10 ||
			got.errors["no_answer"] != 10 || got.retries["out_of_stock"] != 40 || got.latency["part"].TotalCount() != 40 {
			t.Errorf("%v: %d done, %d answered, %v, %v", err, got.done, got.answered(), got.errors, got.retries)
		}
	})
}

func TestALoadEndsWhenItIsStopped(t *testing.T) {
	for name, p := range map[string]pace{"closed": {atOnce: 4, lasts: time.Hour}, "open": {atOnce: 4, rate: 100, lasts: time.Hour}} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			err := p.drive(ctx, newTape(), func(_ context.Context, a *arrival) error {
				time.Sleep(10 * time.Millisecond)
				a.ended(nil)
				return nil
			})
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", name, err)
			}
			broken := errors.New("broken")
			err = p.drive(t.Context(), newTape(), func(context.Context, *arrival) error { return broken })
			if !errors.Is(err, broken) {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
}
