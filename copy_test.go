package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cartwright/infra/esdbstore"
	"cartwright/infra/storetest"
	"cartwright/infra/tlstest"
)

// TestAShopMovesHouse takes orders on the embedded log, carries it to a node that
// wants TLS and a password, first while the server runs and then for good, and
// goes on there.
func TestAShopMovesHouse(t *testing.T) {
	t.Parallel()
	data, ca := t.TempDir(), tlstest.New(t)
	s := serve(t, data)
	s.offer("a", "seller-1", 500, 10)
	s.fund(10_000)
	first := s.bought("a")
	eventually(t, "what was paid is settled", func() bool { return s.revision(first) == 4 })

	house := t.TempDir()
	pair := ca.Server("127.0.0.1")
	node, uri := listening(t, house, "--tls-cert", pair.CertFile, "--tls-key", pair.KeyFile, "--user", "shop", "--password-file", passwordFile(t, "hunter2"))
	move := []string{"copy", "--from", data, "--to", uri, "--to-user", "shop", "--to-password-file", passwordFile(t, "hunter2"), "--to-ca-file", ca.CAFile}
	if out, code := tool(t, move...); code != 0 || !strings.Contains(out, "digest") {
		t.Fatalf("from a running server: exit %d: %s", code, out)
	}
	second := s.bought("a")
	if out, code := tool(t, append(move, "--verify-only")...); code != exitDifferences || !strings.Contains(out, "order-"+second) {
		t.Errorf("what came since: exit %d: %s", code, out)
	}
	eventually(t, "what was paid is settled", func() bool { return s.revision(second) == 4 })
	s.stop()
	out, code := tool(t, append(move, "--json")...)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	var end copyNews
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &end); err != nil || code != 0 || end.Compared == nil || !end.Compared.Same() || end.Since {
		t.Fatalf("from the folder: exit %d: %v: %s", code, err, out)
	}
	wantMoved(t, data, house)

	s = serve(t, t.TempDir(), "--eventstore", "unix://"+ownersSocket(t, house), "--master-key-file", filepath.Join(data, masterKeyName))
	for _, id := range []string{first, second} {
		if a := s.ask(http.StatusOK, "GET", "/v1/orders/"+id, nil); a.body["status"] != "paid" || !strings.Contains(a.raw, "Rua A 1") {
			t.Errorf("got %s", a.raw)
		}
	}
	third := s.bought("a")
	eventually(t, "all orders are in the views", func() bool {
		a := s.ask(http.StatusOK, "GET", "/v1/sellers/seller-1/orders?status=paid", nil)
		return strings.Contains(a.raw, first) && strings.Contains(a.raw, second) && strings.Contains(a.raw, third)
	})
	s.stop()
	out, code = tool(t, move...)
	if code != exitFailed {
		t.Errorf("onto a house that is lived in: exit %d: %s", code, out)
	}
	node.stop()
}

// wantMoved checks that every event is where it should be, with the time at which
// it was stored first, and that bookmarks are not.
func wantMoved(t *testing.T, data, house string) {
	t.Helper()
	there := map[string]bool{}
	for _, e := range eventsOf(t, house) {
		there[fmt.Sprint(e.Stream, e.Revision, e.ID, e.Name, e.Version, string(e.Data), e.Meta, e.Created.UnixNano())] = true
		if strings.HasPrefix(e.Stream, "relay-") {
			t.Errorf("a bookmark came along: %s", e.Stream)
		}
	}
	kinds := map[string]bool{}
	for _, e := range eventsOf(t, data) {
		kind, _, _ := strings.Cut(e.Stream, "-")
		if kind == "relay" || kind == "snapshot" {
			continue
		}
		kinds[kind] = true
		if !there[fmt.Sprint(e.Stream, e.Revision, e.ID, e.Name, e.Version, string(e.Data), e.Meta, e.Created.UnixNano())] {
			t.Errorf("%s@%d did not come along as it was", e.Stream, e.Revision)
		}
	}
	for _, kind := range []string{"order", "inventory", "account", "offer", "key"} {
		if !kinds[kind] {
			t.Errorf("there was nothing of %s to carry", kind)
		}
	}
}

// TestACopyThatIsKilledIsFinishedByTheNext kills the program wherever that finds it.
func TestACopyThatIsKilledIsFinishedByTheNext(t *testing.T) {
	t.Parallel()
	data, house := filled(t, 14_000), t.TempDir()
	startPart(t, "node", house)
	line := []string{"copy", "--from", data, "--to", "unix://" + ownersSocket(t, house), "--exact-order"}
	for i := range 4 {
		cmd := program(t.Context(), line...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(60+40*i) * time.Millisecond) // wherever that finds it
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	if out, code := tool(t, line...); code != 0 || !strings.Contains(out, "14000 events of 7 streams") {
		t.Fatalf("exit %d: %s", code, out)
	}
	wantSame(t, data, house)
}

func wantSame(t *testing.T, data, house string) {
	t.Helper()
	want, got := eventsOf(t, data), eventsOf(t, house)
	if len(want) != len(got) {
		t.Fatalf("%d events, want %d", len(got), len(want))
	}
	for i := range want {
		if want[i].ID != got[i].ID || want[i].Stream != got[i].Stream || want[i].Revision != got[i].Revision {
			t.Fatalf("event %d is %+v, want %+v", i, got[i], want[i])
		}
	}
}

func TestACopyThatMakesNoSenseIsRefused(t *testing.T) {
	t.Parallel()
	data, house, nowhere := filled(t, 100), t.TempDir(), filepath.Join(t.TempDir(), "none")
	startPart(t, "node", house)
	to := "unix://" + ownersSocket(t, house)
	l := logOf(t, house)
	if err := errors.Join(l.Append(t.Context(), "order-0", 0, storetest.Events(1)), l.close(t.Context())); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		code int
	}{
		"from nowhere":                 {[]string{"--to", to}, exitUsage},
		"to nowhere":                   {[]string{"--from", data}, exitUsage},
		"to a folder":                  {[]string{"--from", data, "--to", house}, exitUsage},
		"a password without a user":    {[]string{"--from", data, "--to", "esdb://127.0.0.1:1", "--to-password-file", "x"}, exitUsage},
		"a folder that is not there":   {[]string{"--from", nowhere, "--to", to}, exitFailed},
		"an address without sense":     {[]string{"--from", data, "--to", "http://127.0.0.1"}, exitFailed},
		"a target of another history":  {[]string{"--from", data, "--to", to}, exitFailed},
		"a password file not there":    {[]string{"--from", data, "--to", "esdb://127.0.0.1:1", "--to-user", "x", "--to-password-file", nowhere}, exitFailed},
		"a comparison of what differs": {[]string{"--from", data, "--to", to, "--verify-only"}, exitDifferences},
		"an argument too many":         {[]string{"--from", data, "--to", to, "now"}, exitUsage},
	} {
		if out, code := tool(t, append([]string{"copy"}, c.args...)...); code != c.code {
			t.Errorf("%s: exit %d: %s", name, code, out)
		}
	}
	if _, err := os.Stat(nowhere); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder was made: %v", err)
	}
}

// TestACopyTellsHowFarItIs looks at the lines of one that takes a while.
func TestACopyTellsHowFarItIs(t *testing.T) {
	var people, script strings.Builder
	for _, teller := range []*copyTeller{newCopyTeller(&people, false), newCopyTeller(&script, true)} {
		tell := teller.progress("copy")
		tell(esdbstore.Progress{Events: 5, Position: 10, End: 100, Rate: 2.5, Left: 36 * time.Second}) // too soon
		teller.told = teller.told.Add(-time.Minute)
		tell(esdbstore.Progress{Events: 25, Position: 50, End: 100, Rate: 2.5, Left: 20 * time.Second})
		tell(esdbstore.Progress{Events: 50, Position: 100, End: 100, Rate: 2.5})
	}
	if want := "copy: 25 events, position 50 of 100, 2 events/s, 20s left\ncopy: 50 events, position 100 of 100, 2 events/s\n"; people.String() != want {
		t.Errorf("got %q", people.String())
	}
	if want := `{"phase":"copy","events":25,"position":50,"end":100,"rate":2.5,"seconds_left":20}` + "\n"; !strings.HasPrefix(script.String(), want) || strings.Count(script.String(), "\n") != 2 {
		t.Errorf("got %q", script.String())
	}
}
