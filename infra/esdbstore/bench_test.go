package esdbstore_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"cartwright/domain/event"
	"cartwright/infra/cputime"
	"cartwright/infra/esdbstore"
	"cartwright/infra/storetest"
)

// BenchmarkAppend appends one event to a fresh stream, by the call that all share
// and by a call of its own, with a node beside it.
func BenchmarkAppend(b *testing.B) {
	for _, path := range []string{"single", "batch", "inside"} {
		for _, inflight := range []int{1, 8, 64} {
			b.Run(fmt.Sprintf("path=%s/inflight=%d", path, inflight), func(b *testing.B) {
				r := serve(b, place{dir: b.TempDir(), socket: filepath.Join(b.TempDir(), "n.sock")})
				store := open(b, r.uri)
				if path == "inside" {
					store = connect(b, esdbstore.Config{URI: r.uri, Node: r.node})
				}
				if path == "single" {
					store.AppendAlone()
				}
				benchAppend(b, store, inflight)
			})
		}
	}
}

func benchAppend(b *testing.B, store *esdbstore.Store, inflight int) {
	b.Helper()
	e := storetest.Event("order.placed", `{"note":"`+strings.Repeat("x", 390)+`"}`)
	e.Meta = event.Meta{Cause: e.ID, Digest: e.ID, Correlation: "1234567890123456789", Actor: "anonymous", At: time.Now()}
	appendOne := func() {
		fresh := []event.Recorded{e}
		fresh[0].ID = uuid.NewString()
		if err := store.Append(b.Context(), "order-"+fresh[0].ID, 0, fresh); err != nil {
			b.Errorf("append: %v", err)
		}
	}
	appendOne() // the first one opens the call
	cputime.AtOnce(b, inflight, "append", appendOne)
}
