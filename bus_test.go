//go:build !integration

package main

import (
	"net/http"
	"testing"

	"cartwright/infra/kafkanode"
)

// A bus of before has more partitions than one is made with now: streams stay where
// they are in it.
func TestABusInTheFolderKeepsThePartitionsItHas(t *testing.T) {
	before, now := t.TempDir(), t.TempDir()
	cfg := config{Namespace: "cartwright"}
	old, err := kafkanode.Open(kafkanode.Options{Dir: before + "/kafka", Topic: cfg.topic(), Partitions: 32})
	if err != nil {
		t.Fatal(err)
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	for data, want := range map[string]int{before: 32, now: embeddedPartitions} {
		s := serve(t, data)
		s.offer("mug", "smith", 500, 10)
		s.fund(1000)
		id := s.bought("mug")
		s.ask(http.StatusOK, http.MethodGet, "/v1/orders/"+id, nil)
		s.stop()
		if have, err := kafkanode.Partitions(data+"/kafka", cfg.topic()); have != want || err != nil {
			t.Errorf("the bus has %d partitions, not %d, %v", have, want, err)
		}
	}
}

// Readers of the process that owns the bus need not ask it for what their own
// process publishes.
func TestWhoOwnsTheBusInTheFolderHasAShortcut(t *testing.T) {
	cfg, err := readConfig()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Data = t.TempDir()
	s, err := openSystem(t.Context(), cfg, needs{bus: true})
	if err != nil {
		t.Fatal(err)
	}
	publisher, reader := s.bus(""), s.bus(cfg.groupViews())
	if publisher.Shortcut == nil || publisher.Shortcut != reader.Shortcut {
		t.Error("what is published here goes to brokers and back")
	}
	if err := s.close(t.Context()); err != nil {
		t.Fatal(err)
	}
}
