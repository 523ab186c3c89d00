package sqliteviews_test

import (
	"context"
	"testing"
	"time"

	"cartwright/domain/event"
	"cartwright/infra/viewtest"
	"cartwright/projections"
)

func someOrders(n int) (docs []projections.Doc[projections.Order], streams []string) {
	for i := range n {
		docs = append(docs, viewtest.SampleOrder(i, 1, "a"))
		streams = append(streams, docs[i].Stream)
	}
	return docs, streams
}

// A reader that was cut off in the middle has not ended its transaction by itself.
func TestReadersReadOnAfterTheyWereCutOff(t *testing.T) {
	db := opened(t)
	docs, streams := someOrders(1000)
	if err := db.Orders().Live().Put(t.Context(), docs); err != nil {
		t.Fatal(err)
	}
	cut := 0
	for i := range 100 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*100*time.Microsecond)
		if _, err := db.Orders().Revisions(ctx, streams); err != nil {
			cut++
		}
		cancel()
	}
	if cut == 0 {
		t.Error("none was cut off")
	}
	later := docs[7]
	later.Revision++
	if err := db.Orders().Live().Put(t.Context(), docs[7:8]); err != nil {
		t.Fatal(err)
	}
	if err := db.Orders().Live().Put(t.Context(), []projections.Doc[projections.Order]{later}); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		have, err := db.Orders().Revisions(t.Context(), streams)
		if err != nil || len(have) != len(streams) || have[later.Stream] != event.Revision(2) {
			t.Fatalf("%d revisions, %d of the last, %v", len(have), have[later.Stream], err)
		}
	}
}

func TestAReaderThatIsOutOfOrderFailsOnce(t *testing.T) {
	db := opened(t)
	docs, streams := someOrders(3)
	if err := db.Orders().Live().Put(t.Context(), docs); err != nil {
		t.Fatal(err)
	}
	if err := db.Upset(t.Context()); err != nil {
		t.Fatal(err)
	}
	failed := 0
	for range 100 {
		if have, err := db.Orders().Revisions(t.Context(), streams); err != nil {
			failed++
		} else if len(have) != len(streams) {
			t.Fatalf("%d revisions of %d", len(have), len(streams))
		}
	}
	if failed == 0 || failed > 10 {
		t.Errorf("%d of 100 reads failed", failed)
	}
}

// There are more ways to ask than a reader keeps statements for.
func TestReadersForgetStatements(t *testing.T) {
	db := opened(t)
	docs, streams := someOrders(3)
	if err := db.Orders().Live().Put(t.Context(), docs); err != nil {
		t.Fatal(err)
	}
	for limit := 1; limit <= 1000; limit++ {
		some, err := db.Orders().Live().Streams(t.Context(), "", limit)
		if err != nil || len(some) != min(limit, len(streams)) {
			t.Fatalf("%d streams of %d, %v", len(some), limit, err)
		}
	}
}

func TestNobodyReadsWhatIsClosed(t *testing.T) {
	db := open(t, t.TempDir())
	_, streams := someOrders(1)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if _, err := db.Orders().Revisions(t.Context(), streams); err == nil {
			t.Fatal("a closed database answers")
		}
	}
}
