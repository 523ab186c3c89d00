package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
)

// The views of a folder may be lost: the next start builds them again.
func TestViewsThatWereDeletedAreBuiltAgain(t *testing.T) {
	t.Parallel()
	s := serve(t, t.TempDir())
	s.offer("a", "seller-1", 500, 1000)
	const orders = 5
	for i := range orders {
		buyer := fmt.Sprintf("buyer-%d", i)
		id := s.orderID(buyer)
		s.ask(http.StatusCreated, "POST", "/v1/checkouts", checkoutOf(id, buyer, "a"), key(id))
	}
	listed := func() int { return len(s.list("/v1/sellers/seller-1/orders", "")) }
	eventually(t, "all are listed", func() bool { return listed() == orders })
	s.stop()
	if err := os.RemoveAll(filepath.Join(s.data, "views")); err != nil {
		t.Fatal(err)
	}
	s = serve(t, s.data)
	if got := listed(); got != orders {
		t.Errorf("%d orders are listed of %d", got, orders)
	}
	verified(t, s.data)
}

// A long history without any views, as of a log that was copied from elsewhere.
func TestALongHistoryIsServedFromTheStart(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	const orders = 1000
	b := replayBench{events: orders * lifeEvents, spread: 2 * fillAtOnce, errs: io.Discard}
	cfg, err := readConfig()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Data = data
	system, err := openSystem(t.Context(), cfg, needs{log: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.fill(t.Context(), system); err != nil {
		t.Fatal(err)
	}
	if err := system.close(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := serve(t, data)
	eventually(t, "the last order is listed", func() bool { return len(s.list("/v1/sellers/seller-2/orders", "")) == 2 })
	verified(t, data)
}
