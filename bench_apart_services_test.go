//go:build integration

package main

import (
	"context"
	"encoding/json"
	"testing"
	"time"
)

func TestWhatEachPartSpendsIsToldOfRealServers(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := program(ctx, "bench", "all", "--apart", "--duration", "200ms", "--scenario", "checkout,order", "--json")
	cmd.Env = append(cmd.Env, settings("apart", world)...)
	out, code := finish(t, cmd)
	var did setReport
	if err := json.Unmarshal([]byte(out), &did); code != 0 || err != nil || len(did.Runs) != 2 || len(did.Wrong) > 0 {
		t.Fatalf("exit %d, %v: %s", code, err, out)
	}
	spent := did.Runs[0].Server
	if spent == nil || spent.Undrained || spent.CPU <= 0 {
		t.Fatalf("got %+v", spent)
	}
	for _, part := range []string{"node", "relay", "project", "process", "write"} {
		if spent.Parts[part] <= 0 {
			t.Errorf("checkouts cost the %s nothing: %v", part, spent.Parts)
		}
	}
	if read := did.Runs[1].Server; read == nil || read.Parts["read"] <= read.Parts["write"] {
		t.Errorf("orders were read by %+v", read)
	}
}
