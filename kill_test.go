package main

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"cartwright/infra/esdbnode"
	"cartwright/infra/esdbstore"
	"cartwright/infra/storetest"
)

// TestNothingAcknowledgedIsLostByKillingANode runs the real node under 64 writers
// and a subscriber, kills it as the power does, at random moments and every few
// rounds in the middle of a scavenge or of a backup, and starts it again on what
// is left.
func TestNothingAcknowledgedIsLostByKillingANode(t *testing.T) {
	t.Parallel()
	rounds := 5
	if os.Getenv("CARTWRIGHT_SOAK") != "" {
		rounds = 300
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	known := &storetest.Killed{Rand: rng, Gaps: true}
	data := t.TempDir()
	cfg, err := readConfig()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Data = data
	n := startPart(t, "node", data)
	store := reachNode(t.Context(), t, data) // it finds its way back after each kill
	events, unanswered, disturbed := 0, 0, 0
	for round := range rounds {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		var wg sync.WaitGroup
		busy, rest := context.WithCancel(ctx)
		if do := []string{"", "scavenge", "backup"}[round%3]; do != "" {
			disturbed++
			wg.Go(func() { disturb(busy, store, cfg, do) })
		}
		known.Round(ctx, store, 64, n.kill)
		rest()
		wg.Wait()
		n = startPart(t, "node", data)
		whole := round%25 == 24 || round == rounds-1
		now, without := known.Check(ctx, t, store, whole)
		events, unanswered = now, unanswered+without
		cancel()
		if whole {
			t.Logf("%d rounds, %d of them in a scavenge or a backup: %d events, and %d appends without an answer that were done", round+1, disturbed, events, unanswered)
		}
	}
	if err := store.Close(); err != nil {
		t.Error(err)
	}
	n.stop()
	if found, err := esdbnode.Check(t.Context(), filepath.Join(data, "eventstore")); err != nil {
		t.Errorf("%+v, %v", found, err)
	}
}

func reachNode(ctx context.Context, t *testing.T, data string) *esdbstore.Store {
	t.Helper()
	store, err := esdbstore.Open(ctx, "unix://"+filepath.Join(data, "run", "node.sock"), nil)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// disturb has the node scavenge, or back itself up, as often as it can until ctx
// ends. What it asks for fails when the node is killed.
func disturb(ctx context.Context, store *esdbstore.Store, cfg config, do string) {
	for ctx.Err() == nil {
		stream, events := "gone-"+uuid.NewString(), storetest.Events(1)
		if store.Append(ctx, stream, 0, events) != nil || store.Tombstone(ctx, stream) != nil {
			return
		}
		if os.RemoveAll(filepath.Join(cfg.Data, stageName)) != nil { // what a backup has left
			return
		}
		if askOwner(ctx, cfg, job{Do: do}, func(news) error { return nil }) != nil {
			return
		}
	}
}
