//go:build integration

package main

import (
	"strings"
	"testing"
	"time"
)

// Three processes keep the views, two write and two read: nobody reads from a
// process that knows of itself what was written.
func TestReadersOfAClusterSeeTheirOwnWritesUnderLoad(t *testing.T) {
	c := newCluster(t, world)
	writers := []*server{c.start("write"), c.start("write")}
	readers := []*server{c.start("read"), c.start("read")}
	for range 3 {
		c.start("project")
	}
	c.start("relay")
	c.start("process")
	urls := func(all []*server) string { return strings.Join([]string{all[0].url, all[1].url}, ",") }
	args := []string{"--target", urls(writers), "--read-target", urls(readers), "--concurrency", "16"}
	// The members of a new group find each other first.
	within(t, "what is written is seen in time", func() bool {
		r, err := ownWrites(t, append(args, "--duration", "500ms")...)
		if err != nil {
			t.Fatalf("%v: %v", err, r.Differences)
		}
		return r.Late == 0
	})
	r, err := ownWrites(t, append(args, "--duration", soaked("5s", "5m"))...)
	nothingStale(t, r, err)

	// One projector dies, and another comes.
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		time.Sleep(time.Second) // in the middle of it
		c.start("project")
	}()
	r, err = ownWrites(t, append(args, "--duration", soaked("5s", "1m"))...)
	<-ended
	t.Log("while another process begins to keep views:")
	nothingStale(t, r, err)
	c.verified()
}
