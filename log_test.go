package main

import (
	"fmt"
	"iter"
	"log/slog"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"cartwright/domain/event"
)

// TestAScanSaysWhatAReaderIsTold compares the two ways to read an embedded log, and to ask where it ends.
func TestAScanSaysWhatAReaderIsTold(t *testing.T) {
	t.Parallel()
	cfg := config{Data: t.TempDir()}
	f, err := own(cfg.Data)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	l, err := openLog(t.Context(), cfg, f, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.close(t.Context()) }()
	for i := range 2000 {
		stream := fmt.Sprintf("%s-%d", []string{"order", "inventory", "key", "account"}[i%4], i%40)
		r := event.Recorded{Name: "x.happened", Version: 1 + i%3, Data: []byte(fmt.Sprintf(`{"n":%d,"text":"灯"}`, i))}
		r.ID = uuid.NewString()
		r.Meta = event.Meta{Cause: r.ID, Actor: "测试", Correlation: "c"}
		if err := l.Append(t.Context(), stream, event.Revision(i/40), []event.Recorded{r}); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Tombstone(t.Context(), "inventory-1"); err != nil {
		t.Fatal(err)
	}
	byRead, wrong := l.Store.Head(t.Context())
	if wrong != nil {
		t.Fatal(wrong)
	}
	if known, wrong := l.Head(t.Context()); wrong != nil || known != byRead || known == 0 {
		t.Errorf("the log ends at %d, and its node says %d, %v", byRead, known, wrong)
	}
	collect := func(all iter.Seq2[event.Recorded, error]) (events []event.Recorded) {
		for r, err := range all {
			if err != nil {
				t.Fatal(err)
			}
			events = append(events, r)
		}
		return events
	}
	for _, after := range []uint64{0, 1, 777, 2001, 5000} {
		want := collect(l.Store.All(t.Context(), after, "order-", "inventory-", "account-"))
		got := collect(l.All(t.Context(), after, "order-", "inventory-", "account-"))
		if diff := cmp.Diff(want, got); diff != "" || after == 0 && len(got) != 1500 {
			t.Fatalf("after %d: %d events (-by the protocol +from the files):\n%s", after, len(got), diff)
		}
	}
}
