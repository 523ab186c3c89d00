package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// slowSecond is a load on two servers, of which the second takes ten times as long.
func slowSecond(_ context.Context, a *arrival) error {
	a.ready()
	time.Sleep([]time.Duration{10 * time.Millisecond, 100 * time.Millisecond}[a.target])
	a.ended(nil)
	return nil
}

func TestASlowServerHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		on := newTape()
		if err := (pace{atOnce: 4, lasts: 10 * time.Second, targets: 2}).drive(t.Context(), on, slowSecond); err != nil {
			t.Fatal(err)
		}
		all := on.all()
		if fast, slow := all.shareOf(0), all.shareOf(1); fast.done != 2000 || slow.done != 200 || all.done != 2200 || latencyOf(slow.latency).P50 < 99 {
			t.Errorf("the one did %d, the other %d of %d", fast.done, slow.done, all.done)
		}
	})
}

func TestServersHaveTheirTurnsOnASchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		on := newTape()
		if err := (pace{atOnce: 64, rate: 100, lasts: 10 * time.Second, targets: 2}).drive(t.Context(), on, slowSecond); err != nil {
			t.Fatal(err)
		}
		if all := on.all(); all.shareOf(0).done != 500 || all.shareOf(1).done != 500 {
			t.Errorf("the one did %d, the other %d", all.shareOf(0).done, all.shareOf(1).done)
		}
	})
}

func TestWhatEachOfTwoWriteProcessesDidIsTold(t *testing.T) {
	s := serve(t, t.TempDir(), "--metrics", "127.0.0.1:0")
	second := start(t, s.data, program(context.WithoutCancel(t.Context()), "write", "--data", s.data, "--listen", "127.0.0.1:0"))
	collectors, wrong := ownerSays(s.data, "metrics")
	if wrong != nil {
		t.Fatal(wrong)
	}
	for name, args := range map[string][]string{
		"closed": {"checkout", "--hot", "--count", "200", "--concurrency", "8", "--buyers", "5", "--shards", "2"},
		"open":   {"checkout", "--hot", "--rate", "400", "--count", "100", "--buyers", "5"},
		"flash":  {"flash", "--buyers", "100", "--stock", "30", "--within", "100ms"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := runBench(t, append(args, "--target", s.url, "--target", second.url, "--read-target", s.url, "--data", s.data)...)
			if err != nil || len(got.Targets) != 2 {
				t.Fatalf("%v: %+v, %+v", err, got.Targets, got.Check)
			}
			a, b := got.Targets[0], got.Targets[1]
			if a.Target != s.url || b.Target != second.url || a.Count+b.Count != got.Count || a.Samples == 0 || b.Samples == 0 ||
				b.P50 <= 0 || a.Samples+b.Samples != got.Samples || a.Share+b.Share < .99 || a.Share+b.Share > 1.01 {
				t.Errorf("got %+v of %d, %d", got.Targets, got.Count, got.Samples)
			}
			// One of two may be faster to all that is on sale in a flash.
			if name != "flash" && (a.Count == 0 || b.Count == 0 || a.Rate <= 0 || b.Rate <= 0) {
				t.Errorf("one has sold nothing: %+v", got.Targets)
			}
			if got.Server != nil || !strings.Contains(got.LeftOut, "--metrics") {
				t.Errorf("of both: %+v, %q", got.Server, got.LeftOut)
			}
		})
	}
	got, err := runBench(t, "checkout", "--hot", "--count", "50", "--buyers", "5", "--target", s.url+","+second.url, "--metrics", collectors+","+collectors+"?")
	if err != nil || got.Server == nil || len(got.Server.Parts) == 0 || got.Server.CPU <= 0 {
		t.Errorf("%v: %+v, %q", err, got.Server, got.LeftOut)
	}
}

// whoIsReady is a server that is ready, and does the rest as another does.
func whoIsReady(t *testing.T, rest http.Handler) *httptest.Server {
	t.Helper()
	return quietly(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/readyz" || !say(w, http.StatusOK, `{}`) {
			rest.ServeHTTP(w, r)
		}
	}))
}

func TestAServerOfAnotherShopIsNotTakenForOneOfThis(t *testing.T) {
	s := newBenchShop(t)
	this := whoIsReady(t, s)
	other := whoIsReady(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = say(w, http.StatusNotFound, `{"type":"/problems/unknown_sku"}`)
	}))
	got, err := runBench(t, "checkout", "--hot", "--count", "200", "--concurrency", "4", "--buyers", "5", "--target", this.URL+","+other.URL)
	if exitOf(err) != exitFailed || !strings.Contains(err.Error(), other.URL+" has carried out nothing") || got.Targets[1].Errors["unknown_sku"] == 0 || got.Targets[0].Count == 0 {
		t.Errorf("got %v, %+v", err, got.Targets)
	}
}

func TestAServerThatIsNotThereIsFoundBeforeAnythingIsMeasured(t *testing.T) {
	s := newBenchShop(t)
	this := whoIsReady(t, s)
	_, err := runBench(t, "checkout", "--hot", "--count", "20", "--target", this.URL+",http://127.0.0.1:1")
	if exitOf(err) != exitFailed || !strings.Contains(err.Error(), "http://127.0.0.1:1") || len(s.streams(t, "offer-")) > 0 {
		t.Errorf("got %v", err)
	}
}
