package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cartwright/domain/event"
	"cartwright/infra/esdbnode"
	"cartwright/infra/esdbstore"
	"cartwright/infra/storetest"
)

// nodeStats is what stats says in JSON.
func nodeStats(t *testing.T, data string) nodeNews {
	t.Helper()
	out, code := tool(t, "node", "stats", "--data", data, "--json")
	var n news
	if err := json.Unmarshal([]byte(out), &n); err != nil || code != 0 || n.Node == nil {
		t.Fatalf("exit %d: %v: %s", code, err, out)
	}
	return *n.Node
}

// scrape gives the metrics of the owner of a data folder.
func scrape(t *testing.T, data string) string {
	t.Helper()
	socket, err := ownerSocket(data, "admin.sock")
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://admin/metrics", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%d, %v: %s", resp.StatusCode, err, text)
	}
	return string(text)
}

// cared runs every tool on a data folder, and gives the backup that it has made.
func cared(t *testing.T, data string, running bool) (backup string) {
	t.Helper()
	backup = filepath.Join(t.TempDir(), "backup")
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"verify", "--data", data}, "the log is whole: "},
		{[]string{"backup", "--data", data, backup}, "backed up to " + backup},
		{[]string{"verify", backup}, "the log is whole: "},
		{[]string{"scavenge", "--data", data, "--stream", "order-1"}, "nothing to throw away"},
		{[]string{"scavenge", "--data", data}, ""},
		{[]string{"compact", "--data", data}, "compacted in "},
		{[]string{"stats", "--data", data}, "backup         "},
	} {
		if out, code := tool(t, append([]string{"node"}, c.args...)...); code != 0 || !strings.Contains(out, c.says) {
			t.Errorf("%s: exit %d: %s", c.args, code, out)
		}
	}
	n := nodeStats(t, data)
	if n.Running != running || n.LastBackup == nil || n.LastBackup.To != backup || n.LastBackup.Position == 0 || n.Figures.Disk.Tables == 0 {
		t.Errorf("%+v", n)
	}
	if out, code := tool(t, "restore", "--from", backup, "--dry-run"); code != 0 {
		t.Errorf("a backup of the log alone: exit %d: %s", code, out)
	}
	return backup
}

// TestANodeIsLookedAfterWhileItRunsAndWhenItDoesNot takes every tool to a node's log,
// damages it at last, and goes on with the backup.
func TestANodeIsLookedAfterWhileItRunsAndWhenItDoesNot(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	s, _ := listening(t, data)
	store, err := connectTo(t, esdbstore.Config{URI: "unix://" + ownersSocket(t, data)})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 30 {
		if err = store.Append(t.Context(), fmt.Sprintf("order-%d", i), 0, storetest.Events(20)); err != nil {
			t.Fatal(err)
		}
	}
	if err = store.Append(t.Context(), "order-1", 3, storetest.Events(1)); !errors.Is(err, event.ErrConflict) {
		t.Fatal(err)
	}
	backup := cared(t, data, true)
	n := nodeStats(t, data)
	if n.Contents.Events != 600 || n.Contents.Streams != 30 || n.Figures.Writes["append"]["accepted"] != 30 || n.Figures.Writes["append"]["wrong_version"] != 1 {
		t.Errorf("%+v, %v", n.Contents, n.Figures.Writes)
	}
	text := scrape(t, data)
	for _, line := range []string{`cartwright_node_writes_total{kind="append",result="accepted"} 30`, `cartwright_node_events_total 600`, "cartwright_node_backup_timestamp_seconds ", "cartwright_log_head_position 600"} {
		if !strings.Contains(text, line) {
			t.Errorf("the metrics have no %s", line)
		}
	}
	s.stop()
	cared(t, data, false)

	tables, err := filepath.Glob(filepath.Join(data, logName, "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatal(tables, err)
	}
	damage(t, tables[0])
	out, code := tool(t, "node", "verify", "--data", data, "--json")
	var found esdbnode.Findings
	if err := json.Unmarshal([]byte(out), &found); err != nil || code != exitDifferences || len(found.Damage) == 0 || found.Damage[0].File != filepath.Base(tables[0]) {
		t.Errorf("of a damaged log: exit %d: %v: %s", code, err, out)
	}
	if got := sameBeginning(t, backup, backup); got != 600 {
		t.Errorf("the backup has %d events", got)
	}
	s, _ = listening(t, backup)
	if n := nodeStats(t, backup); n.Contents.Events != 600 {
		t.Errorf("a node on the backup: %+v", n.Contents)
	}
	s.stop()
}

// damage changes a byte of a table.
func damage(t *testing.T, path string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text[500] ^= 1
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestNodeToolsRefuseWhatMakesNoSense(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "data")
	for _, c := range []struct {
		args []string
		code int
	}{
		{[]string{"verify", "--data", data, "elsewhere"}, exitUsage},
		{[]string{"verify", "a", "b"}, exitUsage},
		{[]string{"verify", "--limit", "0"}, exitUsage},
		{[]string{"backup"}, exitUsage},
		{[]string{"backup", ""}, exitUsage},
		{[]string{"scavenge", "--stream", ""}, exitUsage},
		{[]string{"stats", "--nonsense"}, exitUsage},
		{[]string{"compact", "now"}, exitUsage},
		{[]string{"nonsense"}, exitUsage},
		{[]string{"verify", "--data", data}, exitFailed},
		{[]string{"verify", data}, exitFailed},
		{[]string{"backup", "--data", data, data + ".backup"}, exitFailed},
		{[]string{"stats", "--data", data}, exitFailed},
		{[]string{"compact", "--data", data}, exitFailed},
		{[]string{"scavenge", "--data", data}, exitFailed},
	} {
		if out, code := tool(t, append([]string{"node"}, c.args...)...); code != c.code {
			t.Errorf("%q: exit %d: %s", c.args, code, out)
		}
	}
	if _, err := os.Stat(data); err == nil {
		t.Error("a folder was made for nothing")
	}
}
