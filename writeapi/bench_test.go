package writeapi_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/gin-gonic/gin"

	"cartwright/infra/httpedge"
	"cartwright/writeapi"
)

// BenchmarkCheckoutEdge is what a checkout costs before and after the shop.
func BenchmarkCheckoutEdge(b *testing.B) {
	gin.SetMode(gin.TestMode)
	r, err := httpedge.New(httpedge.Config{Log: quiet})
	if err != nil {
		b.Fatal(err)
	}
	shop := &recorder{at: 1}
	if err := writeapi.Routes(r, writeapi.Config{Log: quiet, Shop: shop, DigestSecret: secret}); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		req := httptest.NewRequestWithContext(b.Context(), http.MethodPost, "/v1/checkouts", bytes.NewReader([]byte(aCheckout)))
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Idempotency-Key", "k1")
		w := httptest.NewRecorder()
		if r.ServeHTTP(w, req); w.Code != http.StatusCreated {
			b.Fatalf("got %d %s", w.Code, w.Body)
		}
		shop.calls = shop.calls[:0]
	}
}
