package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"

	"cartwright/domain/event"
	"cartwright/domain/personal"
	"cartwright/infra/storetest"
)

// secretAddress has nothing in it that could be anywhere by chance.
var secretAddress = obj{
	"name": "Zephyrine Quillfeather", "phone": "+55-11-90210-47110", "line1": "Travessa do Esquecimento 771", "line2": "fundos-xyzzy",
	"city": "Oblivionópolis", "region": "Lethe", "postal_code": "04711-771", "country": "BR",
}

// plain are the texts of an address that must be in no file, ever.
func plain(address obj) []string {
	var texts []string
	for field, text := range address {
		if s, _ := text.(string); field != "country" {
			texts = append(texts, s)
		}
	}
	return texts
}

// holding names what has one of some texts in it, of the files of a folder as
// they lie on the disk, and of the tables of Pebble as they are decoded.
func holding(t *testing.T, dir string, texts ...string) []string {
	t.Helper()
	var found []string
	look := func(where string, data []byte) {
		for _, text := range texts {
			if bytes.Contains(data, []byte(text)) && !slices.Contains(found, where) {
				found = append(found, where)
			}
		}
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return ignoreGone(err)
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return ignoreGone(err)
		}
		look(name, data)
		if filepath.Ext(path) == ".sst" {
			return ignoreGone(eachValue(path, func(value []byte) { look(name+" decoded", value) }))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// ignoreGone lets a running server remove its files.
func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// eachValue decodes a table of Pebble's, with all that a deletion has hidden.
func eachValue(path string, look func([]byte)) error {
	f, err := vfs.Default.Open(path)
	if err != nil {
		return err
	}
	readable, err := sstable.NewSimpleReadable(f)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	r, err := sstable.NewReader(context.Background(), readable, sstable.ReaderOptions{})
	if err != nil {
		return errors.Join(err, readable.Close())
	}
	defer func() { _ = r.Close() }()
	it, err := r.NewIter(sstable.NoTransforms, nil, nil, sstable.AssertNoBlobHandles)
	if err != nil {
		return err
	}
	for kv := it.First(); kv != nil; kv = it.Next() {
		value, _, err := kv.Value(nil)
		if err != nil {
			return errors.Join(err, it.Close())
		}
		look(value)
	}
	return errors.Join(it.Error(), it.Close())
}

// wrappedKey is a piece of a buyer's key as it stands, wrapped, in the log.
func wrappedKey(t *testing.T, data, buyer string) string {
	t.Helper()
	l := logOf(t, data)
	defer func() { _ = l.close(t.Context()) }()
	for e, err := range l.Load(t.Context(), "key-"+buyer, 0) {
		if err != nil {
			t.Fatal(err)
		}
		var k personal.KeyCreated
		if err := json.Unmarshal(e.Data, &k); err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(k.Wrapped)
		if err != nil {
			t.Fatal(err)
		}
		return string(text[20:44])
	}
	t.Fatalf("%s has no key", buyer)
	return ""
}

// soldTo places an order with an address, and takes one of buyer-1 through its life.
func (s *server) soldTo(buyer string, address obj) string {
	s.tb.Helper()
	id := s.orderID(buyer)
	cart := checkoutOf(id, buyer, "a")
	cart["address"] = address
	s.ask(http.StatusCreated, "POST", "/v1/checkouts", cart, key("c"+id))
	if buyer != "buyer-1" {
		return id
	}
	s.ask(http.StatusOK, "POST", "/v1/checkouts/"+id+"/pay", nil, key("p"+id))
	order := "/v1/orders/" + id
	moved := maps.Clone(address)
	moved["line2"] = "porta-plugh"
	s.ask(http.StatusOK, "PUT", order+"/address", moved)
	s.ask(http.StatusCreated, "POST", order+"/parcels", obj{"lines": []obj{{"line": 1, "quantity": 1}}}, key("k"+id))
	s.ask(http.StatusOK, "PUT", order+"/parcels/1/waybill", obj{"carrier": "SF", "number": "123"}, "If-None-Match: *")
	s.ask(http.StatusOK, "POST", order+"/parcels/1/delivered", nil, key("d"+id))
	s.ask(http.StatusOK, "POST", order+"/complete", nil, key("f"+id))
	return id
}

// an order without its address, and with nothing that changes by itself.
func (s *server) facts(id string) (address any, rest string) {
	s.tb.Helper()
	a := s.ask(http.StatusOK, "GET", "/v1/orders/"+id, nil)
	address = a.body["address"]
	delete(a.body, "address")
	text, err := json.Marshal(a.body)
	if err != nil {
		s.tb.Fatal(err)
	}
	return address, string(text)
}

// sums are what the erasure of a buyer must not change. The views may not have
// them yet.
func (s *server) sums() string {
	s.tb.Helper()
	var said strings.Builder
	for _, path := range []string{"/v1/accounts/buyer-1", "/v1/accounts/buyer-1/entries", "/v1/sellers/seller-1/summary", "/v1/inventory/a"} {
		a, err := s.try("GET", path, nil)
		if err != nil {
			s.tb.Fatal(err)
		}
		said.WriteString(a.raw + "\n")
	}
	return said.String()
}

// TestAnErasedBuyerIsInNoFile takes a buyer through the whole system, and looks at
// the bytes of every file of it: the log, the bus, and all views.
func TestAnErasedBuyerIsInNoFile(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	s := serve(t, data)
	s.offer("a", "seller-1", 500, 100)
	s.fund(10_000)
	id := s.soldTo("buyer-1", secretAddress)
	s.stop() // the next start writes the log to tables
	s = serve(t, data)
	other := s.soldTo("buyer-2", secretAddress)
	again := s.soldTo("buyer-1", secretAddress)
	was, same := "", 0
	eventually(t, "everything is settled and seen", func() bool {
		_, facts := s.facts(id)
		now := s.sums() + facts
		if same++; now != was {
			was, same = now, 0
		}
		return same > 50 && strings.Contains(now, `"balance":{"amount":9000,`) && strings.Contains(now, `"allocated":0`)
	})
	nowhere := func(when string, texts ...string) {
		t.Helper()
		if found := holding(t, data, texts...); len(found) > 0 {
			t.Fatalf("%s it is in %v", when, found)
		}
	}
	secret := append(plain(secretAddress), "porta-plugh")
	nowhere("before anything", secret...)
	wrapped := wrappedKey(t, data, "buyer-1")
	before := holding(t, data, wrapped)
	if len(before) < 2 || !strings.Contains(strings.Join(before, " "), "decoded") {
		t.Fatalf("the test shows nothing: the key is in %v", before)
	}
	for _, path := range append(before, holding(t, data, wrappedKey(t, data, "buyer-2"))...) {
		if !strings.HasPrefix(path, "eventstore/") {
			t.Errorf("a key is in %s, outside of the log", path)
		}
	}
	if found := holding(t, filepath.Join(data, "kafka"), "key-buyer", "key.created", wrapped); len(found) > 0 {
		t.Errorf("the relay has published a key: %v", found)
	}
	address, facts := s.facts(id)
	if fmt.Sprint(address) == "<nil>" {
		t.Fatal("there is no address to erase")
	}
	sums := s.sums()

	out, code := tool(t, "erase", "--data", data, "--buyer", "buyer-1", "--reason", "asked", "--yes")
	if code != 0 || !strings.Contains(out, "the key is destroyed") || !strings.Contains(out, "1 events are gone") {
		t.Fatalf("exit %d: %s", code, out)
	}
	t.Logf("the key was in %v; %s", before, out)
	check := func(when string) {
		t.Helper()
		nowhere(when, wrapped)
		nowhere(when, secret...)
		for _, order := range []string{id, again} {
			if address, _ := s.facts(order); address != nil {
				t.Errorf("%s the address of %s is %v", when, order, address)
			}
		}
		if _, now := s.facts(id); now != facts {
			t.Errorf("%s the order is %s\nwas %s", when, now, facts)
		}
		if now := s.sums(); now != sums {
			t.Errorf("%s the sums are %s\nwere %s", when, now, sums)
		}
		if address, _ := s.facts(other); fmt.Sprint(address) == "<nil>" {
			t.Errorf("%s another buyer's address is gone", when)
		}
		if out, code := tool(t, "verify", "--data", data); code != 0 {
			t.Errorf("%s verify says %d: %s", when, code, out)
		}
		cart := checkoutOf(s.orderID("buyer-1"), "buyer-1", "a")
		if a := s.ask(http.StatusConflict, "POST", "/v1/checkouts", cart, key("again-"+strings.ReplaceAll(when, " ", "-"))); a.slug() != "buyer_erased" {
			t.Errorf("%s an order of the erased: %s", when, a.raw)
		}
		if a := s.ask(http.StatusConflict, "PUT", "/v1/orders/"+id+"/address", secretAddress); a.slug() != "buyer_erased" {
			t.Errorf("%s a new address for the erased: %s", when, a.raw)
		}
	}
	check("after the erasure")
	if out, code := tool(t, "replay", "--data", data, "--view", "all"); code != 0 {
		t.Fatalf("replay: %d: %s", code, out)
	}
	check("after a replay")
	s.stop()
	nowhere("after the end", append(secret, wrapped)...)
	s = serve(t, data)
	check("after a restart")
	if out, code := tool(t, "erase", "--data", data, "--buyer", "buyer-1", "--yes"); code != 0 || !strings.Contains(out, "erased before") {
		t.Errorf("a second time: exit %d: %s", code, out)
	}
	s.stop()
	if listed := listOf(t, filepath.Join(data, erasuresName)); len(listed) != 1 || listed[0].Reason != "asked" || listed[0].At.IsZero() {
		t.Errorf("the list has %+v", listed)
	}
}

// TestAnOlderLogForgetsAgain restores a backup from before an erasure.
func TestAnOlderLogForgetsAgain(t *testing.T) {
	t.Parallel()
	data, backup := t.TempDir(), filepath.Join(t.TempDir(), "backup")
	list := filepath.Join(t.TempDir(), "erased.jsonl")
	withList := func(data string) *server {
		sweep(t, data)
		cmd := program(context.WithoutCancel(t.Context()), "serve", "--data", data, "--listen", "127.0.0.1:0")
		cmd.Env = append(cmd.Env, "CARTWRIGHT_ERASURES="+list)
		return start(t, data, cmd)
	}
	s := withList(data)
	s.offer("a", "seller-1", 500, 100)
	s.fund(10_000)
	id := s.soldTo("buyer-1", secretAddress)
	other := s.soldTo("buyer-2", secretAddress)
	wrapped := wrappedKey(t, data, "buyer-1")
	if out, code := tool(t, "backup", "--data", data, "--to", backup); code != 0 {
		t.Fatalf("backup: %d: %s", code, out)
	}
	if out, code := tool(t, "erase", "--data", data, "--buyer", "buyer-1", "--yes", "--json"); code != 0 || !strings.Contains(out, list) {
		t.Fatalf("erase: %d: %s", code, out)
	}
	s.kill()
	if found := holding(t, data, wrapped); len(found) > 0 {
		t.Errorf("it is in %v", found)
	}

	restore := func(args ...string) string {
		t.Helper()
		data := filepath.Join(t.TempDir(), "data")
		if out, code := tool(t, append([]string{"restore", "--from", backup, "--data", data}, args...)...); code != 0 {
			t.Fatalf("restore: %d: %s", code, out)
		}
		if len(holding(t, filepath.Join(data, logName), wrapped)) == 0 {
			t.Fatal("the test shows nothing: the backup has no key")
		}
		return data
	}
	for name, c := range map[string]struct {
		args  []string
		start func(string) *server
		gone  bool
	}{
		"without the list":           {nil, func(data string) *server { return serve(t, data) }, false},
		"with the list at its place": {nil, withList, true},
		"with the list of today":     {[]string{"--erasures", list}, func(data string) *server { return serve(t, data) }, true},
	} {
		data := restore(c.args...)
		s := c.start(data)
		address, _ := s.facts(id)
		if found := holding(t, data, wrapped); c.gone != (address == nil) || c.gone != (len(found) == 0) {
			t.Errorf("%s: the address is %v, the key in %v", name, address, found)
		}
		if address, _ := s.facts(other); address == nil {
			t.Errorf("%s: another buyer's address is gone", name)
		}
		if c.gone {
			newer := filepath.Join(t.TempDir(), "newer")
			cmd := program(t.Context(), "backup", "--data", data, "--to", newer)
			cmd.Env = append(cmd.Env, "CARTWRIGHT_ERASURES="+list)
			if out, code := finish(t, cmd); code != 0 {
				t.Errorf("%s: a backup of it: %d: %s", name, code, out)
			}
			if listed := listOf(t, filepath.Join(newer, erasuresName)); len(listed) != 1 || listed[0].Buyer != "buyer-1" {
				t.Errorf("%s: the next backup lists %+v", name, listed)
			}
			if found := holding(t, newer, wrapped); len(found) > 0 {
				t.Errorf("%s: the next backup has the key in %v", name, found)
			}
		}
		s.stop()
	}
}

// TestAnErasureThatWasBrokenOffIsFinishedByTheNextStart has the line, and nothing
// else of an erasure.
func TestAnErasureThatWasBrokenOffIsFinishedByTheNextStart(t *testing.T) {
	t.Parallel()
	data := keyedLog(t, "b1", "b2")
	if err := os.WriteFile(filepath.Join(data, erasuresName), []byte(`{"buyer":"b1","at":"2024-05-02T10:00:00Z"}`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := startPart(t, "node", data)
	wantKeys(t, data, map[string]bool{"b1": false, "b2": true})
	if found := holding(t, data, "payload of b1"); len(found) > 0 {
		t.Errorf("the key is in %v", found)
	}
	s.stop()
	damaged := []byte(`{"buyer":"b1"}` + "\nnonsense\n" + `{"buyer":"b2"}` + "\n")
	if err := os.WriteFile(filepath.Join(data, erasuresName), damaged, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"node", "serve"} {
		if out, code := tool(t, part, "--data", data); code != exitFailed {
			t.Errorf("%s started with a damaged list: exit %d: %s", part, code, out)
		}
	}
	wantKeys(t, data, map[string]bool{"b1": false, "b2": true})
}

// keyedLog makes a data folder with a log that has keys, and that nobody has open.
func keyedLog(t *testing.T, buyers ...string) string {
	t.Helper()
	data := t.TempDir()
	s := startPart(t, "node", data)
	l := logOf(t, data)
	for _, b := range buyers {
		e := storetest.Event("key.created", `{"is":"payload of `+b+`"}`)
		if err := l.Append(t.Context(), "key-"+b, 0, []event.Recorded{e}); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.close(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.stop()
	return data
}

func wantKeys(t *testing.T, data string, want map[string]bool) {
	t.Helper()
	l := logOf(t, data)
	for b, there := range want {
		var last error
		n := 0
		for _, err := range l.Load(t.Context(), "key-"+b, 0) {
			if last = err; err == nil {
				n++
			}
		}
		if there != (n == 1) || there == errors.Is(last, event.ErrDeleted) {
			t.Errorf("the key of %s: %d events, %v", b, n, last)
		}
	}
	if err := l.close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestEraseAsksWhoeverHasTheLog(t *testing.T) {
	t.Parallel()
	data := keyedLog(t, "b1", "b2", "b3", "b4")
	list := filepath.Join(t.TempDir(), "list")
	if err := os.MkdirAll(filepath.Join(data, stageName, logName), 0o700); err != nil { // of a backup that was killed
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(data, stageName, logName, "000001.log"), []byte("payload of b1"), 0o600); err != nil {
		t.Fatal(err)
	}
	erase := func(buyer string, args ...string) (erasedNews, int) {
		t.Helper()
		out, code := tool(t, append([]string{"erase", "--buyer", buyer, "--yes", "--json"}, args...)...)
		var n news
		if code == 0 {
			if err := json.Unmarshal([]byte(out), &n); err != nil || n.Erased == nil {
				t.Fatalf("%v: %s", err, out)
			}
			return *n.Erased, code
		}
		return erasedNews{}, code
	}
	if e, code := erase("b1", "--data", data); code != 0 || !e.Key || !e.Noted || e.Scavenged == nil || e.Scavenged.Events != 1 {
		t.Errorf("of a folder that nobody has: %d %+v", code, e)
	}
	if found := holding(t, data, "payload of b1"); len(found) > 0 {
		t.Errorf("the key is in %v", found)
	}
	if _, err := os.Stat(filepath.Join(data, masterKeyName)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("erasing made a master key: %v", err)
	}
	s := startPart(t, "node", data)
	if e, code := erase("b2", "--data", data); code != 0 || !e.Key || e.Scavenged == nil || e.Scavenged.Events != 1 {
		t.Errorf("of a folder that a node has: %d %+v", code, e)
	}
	if e, code := erase("never-seen", "--data", data); code != 0 || e.Key || e.Before || !e.Noted {
		t.Errorf("of a buyer without a key: %d %+v", code, e)
	}
	socket, err := ownerSocket(data, "node.sock")
	if err != nil {
		t.Fatal(err)
	}
	if _, code := erase("b3", "--data", t.TempDir(), "--eventstore", "unix://"+socket); code != exitUsage {
		t.Errorf("elsewhere without a list: exit %d", code)
	}
	wantKeys(t, data, map[string]bool{"b1": false, "b2": false, "b3": true, "b4": true, "never-seen": false})
	if e, code := erase("b3", "--data", t.TempDir(), "--eventstore", "unix://"+socket, "--erasures", list); code != 0 || !e.Key || e.Scavenged != nil || e.List != list {
		t.Errorf("elsewhere: %d %+v", code, e)
	}
	if out, code := tool(t, "erase", "--buyer", "b3", "--yes", "--data", t.TempDir(), "--eventstore", "unix://"+socket, "--erasures", list); code != 0 || !strings.Contains(out, "admin/scavenge") {
		t.Errorf("exit %d: %s", code, out)
	}
	wantKeys(t, data, map[string]bool{"b3": false, "b4": true})
	s.stop()
	if listed := listOf(t, filepath.Join(data, erasuresName)); len(listed) != 3 {
		t.Errorf("the list has %+v", listed)
	}
	if listed := listOf(t, list); len(listed) != 1 {
		t.Errorf("the list has %+v", listed)
	}
}

func TestAnErasureThatMakesNoSenseIsRefused(t *testing.T) {
	t.Parallel()
	data := keyedLog(t, "b1")
	for name, c := range map[string]struct {
		args []string
		code int
	}{
		"nobody":                   {[]string{"--yes"}, exitUsage},
		"no id":                    {[]string{"--buyer", "b 1", "--yes"}, exitUsage},
		"another stream":           {[]string{"--buyer", "../b1", "--yes"}, exitUsage},
		"a reason out of bounds":   {[]string{"--buyer", "b1", "--reason", strings.Repeat("x", 501), "--yes"}, exitUsage},
		"an argument":              {[]string{"b1", "--yes"}, exitUsage},
		"not meant":                {[]string{"--buyer", "b1"}, exitUsage},
		"a folder without a log":   {[]string{"--buyer", "b1", "--yes", "--data", t.TempDir()}, exitFailed},
		"a list that can't be":     {[]string{"--buyer", "b1", "--yes", "--erasures", filepath.Join(data, "no", "such")}, exitFailed},
		"a list that is something": {[]string{"--buyer", "b1", "--yes", "--erasures", filepath.Join(data, "eventstore", "FORMAT")}, exitFailed},
	} {
		args := append([]string{"erase", "--data", data}, c.args...)
		if out, code := tool(t, args...); code != c.code {
			t.Errorf("%s: exit %d, want %d: %s", name, code, c.code, out)
		}
	}
	wantKeys(t, data, map[string]bool{"b1": true})
}

func listOf(t *testing.T, path string) []erasure {
	t.Helper()
	listed, err := erasureList{path: path, log: slog.New(slog.DiscardHandler)}.read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return listed
}

// TestOnlyTheEndOfTheListIsMended reads lists that were written, broken off and
// damaged.
func TestOnlyTheEndOfTheListIsMended(t *testing.T) {
	t.Parallel()
	const a, b = `{"buyer":"a","at":"2024-05-02T10:00:00Z","by":"ops"}`, `{"buyer":"b","at":"2024-05-02T10:00:00Z"}`
	for name, c := range map[string]struct {
		text, mended string
		buyers       []string
		says         string // why it is refused
	}{
		"nothing":                      {"", "", nil, ""},
		"two":                          {a + "\n" + b + "\n", a + "\n" + b + "\n", []string{"a", "b"}, ""},
		"by hand, with an empty line":  {a + "\n\n" + b + "\n", a + "\n\n" + b + "\n", []string{"a", "b"}, ""},
		"by hand, without a last end":  {a + "\n" + b, a + "\n" + b + "\n", []string{"a", "b"}, ""},
		"broken off":                   {a + "\n" + b[:20], a + "\n", []string{"a"}, ""},
		"broken off at once":           {a + "\n{", a + "\n", []string{"a"}, ""},
		"broken off, the first":        {`{"buy`, "", nil, ""},
		"broken off, with zeros":       {a + "\n\x00\x00\x00", a + "\n", []string{"a"}, ""},
		"nonsense in the middle":       {a + "\nnonsense\n" + b + "\n", "", nil, "line 2"},
		"a broken line in the middle":  {a[:20] + b + "\n", "", nil, "line 1"},
		"nonsense at the end":          {a + "\n" + b + "\n{}\n", "", nil, "line 3"},
		"somebody who can't be":        {`{"buyer":"a b"}` + "\n", "", nil, "line 1"},
		"nonsense, and then an ending": {"nonsense\n" + a, "", nil, "line 1"},
	} {
		path := filepath.Join(t.TempDir(), "list")
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		l := erasureList{path: path, log: slog.New(slog.DiscardHandler)}
		want := c.mended
		if c.says != "" {
			want = c.text // damage is left as it is
		}
		listed, err := l.read(t.Context())
		if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %v", name, err)
		}
		var buyers []string
		for _, e := range listed {
			buyers = append(buyers, e.Buyer)
		}
		text, rerr := os.ReadFile(path)
		if rerr != nil || !slices.Equal(buyers, c.buyers) || string(text) != want {
			t.Errorf("%s: %v, and the list is %q, %v", name, buyers, text, rerr)
		}
		noted, err := l.note(t.Context(), erasure{Buyer: "c", At: time.Now()})
		if c.says != "" && (err == nil || noted) || c.says == "" && (err != nil || !noted || len(listOf(t, path)) != len(c.buyers)+1) {
			t.Errorf("%s: noted one more: %v, %v", name, noted, err)
		}
	}
}

func TestManyMayWriteTheList(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "list")
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			l := erasureList{path: path, log: slog.New(slog.DiscardHandler)}
			for i := range 10 {
				if _, err := l.note(t.Context(), erasure{Buyer: fmt.Sprintf("b%d", (w+i)%20), At: time.Now()}); err != nil {
					t.Error(err)
				}
				if _, err := l.read(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if listed := listOf(t, path); len(listed) != 17 {
		t.Errorf("%d buyers are listed", len(listed))
	}
	wantMode(t, path, 0o600)
}
