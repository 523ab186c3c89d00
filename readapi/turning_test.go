package readapi_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"cartwright/projections"
	"cartwright/readapi"
)

// A turned index is switched to a copy that lacks the newest, by somebody else,
// as many times as are left, each time just before it is searched.
type turned struct {
	readapi.Index
	left, live, asked int
}

func (t *turned) Turn(context.Context) (int, error) { return t.live, nil }

func (t *turned) Orders(ctx context.Context, q projections.OrderQuery) (projections.OrderPage, error) {
	t.asked++
	if t.left > 0 {
		t.left--
		t.live++
		return projections.OrderPage{}, nil
	}
	return t.Index.Orders(ctx, q)
}

func TestAViewThatIsTurnedMeanwhileIsAskedAgain(t *testing.T) {
	w := newWorld(t)
	w.sells("s1", "tea:1", "Tea", 100, "CNY")
	w.funds(10_000)
	id := w.buys("123456", "tea:1", 1)
	w.project()
	index := &turned{Index: w.cfg.Index}
	w.cfg.Index = index
	w.mount()
	for times, status := range []int{http.StatusOK, http.StatusOK, http.StatusOK, http.StatusOK, http.StatusServiceUnavailable} {
		index.left, index.asked = times, 0
		rec := w.get("/v1/sellers/s1/orders", tokenFor("orders", id)...)
		if rec.Code != status || status == http.StatusOK && !strings.Contains(rec.Body.String(), string(id)) || index.asked != min(times+1, 4) {
			t.Errorf("turned %d times: asked %d times, %d %s", times, index.asked, rec.Code, rec.Body)
		}
	}
	index.left, index.asked = 1, 0
	if rec := w.get("/v1/sellers/s1/orders"); rec.Code != http.StatusOK || index.asked != 1 {
		t.Errorf("without a token: asked %d times, %d", index.asked, rec.Code)
	}
}
