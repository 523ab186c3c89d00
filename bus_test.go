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
