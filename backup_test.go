package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cartwright/domain/event"
	"cartwright/infra/storetest"
)

// place makes an order and says whether it was acknowledged.
func (s *server) place(id string) bool {
	a, err := s.try("POST", "/v1/checkouts", checkoutOf(id, "buyer-1", "a"), key("checkout-"+id))
	return err == nil && a.status == http.StatusCreated
}

// TestADrill is what backups are for: a server takes orders all the time, is
// backed up, goes on, and dies. On the backup, elsewhere, another one starts.
func TestADrill(t *testing.T) {
	t.Parallel()
	data, to := t.TempDir(), filepath.Join(t.TempDir(), "deeper", "monday")
	s := serve(t, data)
	s.offer("a", "seller-1", 500, 100_000)
	stopped := make(chan struct{})
	var mu sync.Mutex
	var acknowledged []string
	var placed atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for !isClosed(stopped) {
				a, err := s.try("POST", "/v1/order-ids", obj{"buyer_id": "buyer-1"})
				if err != nil {
					return
				}
				if id, _ := a.body["order_id"].(string); s.place(id) {
					mu.Lock()
					acknowledged = append(acknowledged, id)
					mu.Unlock()
					placed.Add(1)
				}
			}
		})
	}
	eventually(t, "there is something to back up", func() bool { return placed.Load() > 150 })
	mu.Lock()
	before := slices.Clone(acknowledged)
	mu.Unlock()
	began := time.Now()
	out, code := tool(t, "backup", "--data", data, "--to", to, "--json")
	took, seen := time.Since(began), placed.Load()
	var m manifest
	if err := json.Unmarshal([]byte(out), &m); err != nil || code != 0 || m.Log.Position == 0 || !m.has(masterKeyName) {
		t.Fatalf("exit %d: %v: %s", code, err, out)
	}
	t.Logf("%d events were backed up in %v, while %d orders were placed", m.Log.Events, took, seen-int64(len(before)))
	eventually(t, "orders are taken after it too", func() bool { return placed.Load() > seen+100 })
	s.kill()
	close(stopped)
	wg.Wait()

	if _, code := tool(t, "restore", "--from", to, "--dry-run"); code != 0 {
		t.Fatalf("the backup is not whole: exit %d", code)
	}
	elsewhere := filepath.Join(t.TempDir(), "data")
	if out, code := tool(t, "restore", "--from", to, "--data", elsewhere); code != 0 {
		t.Fatalf("restore: exit %d: %s", code, out)
	}
	if n := sameBeginning(t, data, elsewhere); n < len(before)*2 {
		t.Errorf("only %d events are in the backup", n)
	}
	wantMode(t, filepath.Join(elsewhere, masterKeyName), 0o600)

	s = serve(t, elsewhere)
	for _, id := range before {
		if a := s.ask(http.StatusOK, "GET", "/v1/orders/"+id, nil); a.body["status"] != "pending_payment" || !strings.Contains(a.raw, "Rua A 1") {
			t.Fatalf("order %s: %s", id, a.raw)
		}
	}
	eventually(t, "the views are built again", func() bool {
		a := s.ask(http.StatusOK, "GET", "/v1/buyers/buyer-1/orders?limit=1", nil)
		return strings.Contains(a.raw, "order_id")
	})
	s.ask(http.StatusCreated, "POST", "/v1/checkouts", checkoutOf(s.orderID("buyer-1"), "buyer-1", "a"), key("after"))
	eventually(t, "views and log agree", func() bool {
		_, code := tool(t, "verify", "--data", elsewhere)
		return code == 0
	})
	s.stop()
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func wantMode(t *testing.T, path string, want fs.FileMode) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != want {
		t.Errorf("%s: %v, %v", path, info, err)
	}
}

// sameBeginning checks that one log is the beginning of another, and says how
// long it is.
func sameBeginning(t *testing.T, whole, part string) int {
	t.Helper()
	all, some := eventsOf(t, whole), eventsOf(t, part)
	if len(some) > len(all) {
		t.Fatalf("%d events of %d", len(some), len(all))
	}
	for i := range some {
		if a, b := all[i], some[i]; a.Position != b.Position || a.Stream != b.Stream || a.Revision != b.Revision || a.ID != b.ID || string(a.Data) != string(b.Data) || !a.Created.Equal(b.Created) {
			t.Fatalf("event %d is %+v, and was %+v", i, b, a)
		}
	}
	return len(some)
}

func eventsOf(t *testing.T, data string) []event.Recorded {
	t.Helper()
	l := logOf(t, data)
	var all []event.Recorded
	for e, err := range l.All(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	if err := l.close(t.Context()); err != nil {
		t.Fatal(err)
	}
	return all
}

// logOf opens the log of a data folder, whoever has it.
func logOf(t *testing.T, data string) *openedLog {
	t.Helper()
	cfg, err := readConfig()
	if err != nil {
		t.Fatal(err)
	}
	l, err := openFolderLog(t.Context(), cfg, data)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// filled makes a data folder with a small history and a master key, which nobody has open.
func filled(t *testing.T, events int) string {
	t.Helper()
	data := t.TempDir()
	s := startPart(t, "node", data)
	l := logOf(t, data)
	for i := 0; i < events; i += 100 {
		if err := l.Append(t.Context(), fmt.Sprintf("order-%d", i%700), event.Revision(i/700*100), storetest.Events(100)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(l.close(t.Context()), os.WriteFile(filepath.Join(data, masterKeyName), []byte(strings.Repeat("k", 32)), 0o600)); err != nil {
		t.Fatal(err)
	}
	s.stop()
	return data
}

func TestABackupOfAFolderNobodyOwns(t *testing.T) {
	t.Parallel()
	data := filled(t, 300)
	if err := os.WriteFile(filepath.Join(data, erasuresName), []byte(`{"buyer":"b1"}`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "b")
	if out, code := tool(t, "backup", "--data", data, "--to", to); code != 0 || !strings.Contains(out, "300 events of 3 streams up to position 300") {
		t.Fatalf("exit %d: %s", code, out)
	}
	bare := filepath.Join(t.TempDir(), "b")
	out, code := tool(t, "backup", "--data", data, "--to", bare, "--without-master-key")
	if code != 0 || !strings.Contains(out, "the master key is not in it") {
		t.Fatalf("exit %d: %s", code, out)
	}
	if _, err := os.Stat(filepath.Join(bare, masterKeyName)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the key is in it: %v", err)
	}
	for from, keyed := range map[string]bool{to: true, bare: false} {
		elsewhere := t.TempDir() // which is empty
		if out, code := tool(t, "restore", "--from", from, "--data", elsewhere); code != 0 {
			t.Fatalf("exit %d: %s", code, out)
		}
		if _, err := os.Stat(filepath.Join(elsewhere, masterKeyName)); keyed != (err == nil) {
			t.Errorf("the key: %v", err)
		}
		if text, err := os.ReadFile(filepath.Join(elsewhere, erasuresName)); err != nil || string(text) != `{"buyer":"b1"}`+"\n" {
			t.Errorf("the erasures: %q, %v", text, err)
		}
		if n := sameBeginning(t, data, elsewhere); n != 300 {
			t.Errorf("%d events", n)
		}
	}
	if left, err := filepath.Glob(filepath.Join(data, stageName)); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestABackupIsRefusedWhereItMakesNoSense(t *testing.T) {
	t.Parallel()
	data, there, empty := filled(t, 100), t.TempDir(), t.TempDir()
	to := filepath.Join(t.TempDir(), "b")
	if err := os.MkdirAll(filepath.Join(to+unfinished, "holiday"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		code int
	}{
		"nowhere to":                    {[]string{"backup", "--data", data}, exitUsage},
		"a folder that is there":        {[]string{"backup", "--data", data, "--to", there}, exitFailed},
		"a folder without a log":        {[]string{"backup", "--data", empty, "--to", to + "2"}, exitFailed},
		"a folder that is not there":    {[]string{"backup", "--data", empty + "/none", "--to", to + "2"}, exitFailed},
		"somebody's folder in the way":  {[]string{"backup", "--data", data, "--to", to}, exitFailed},
		"a key that is not there":       {[]string{"backup", "--data", data, "--to", to + "2", "--master-key-file", empty + "/none"}, exitFailed},
		"from nowhere":                  {[]string{"restore", "--data", empty}, exitUsage},
		"from a folder without backup":  {[]string{"restore", "--from", there, "--data", empty}, exitFailed},
		"into a folder that is in use":  {[]string{"restore", "--from", there, "--data", data}, exitFailed},
		"an argument nobody asked for":  {[]string{"restore", "--from", there, "--data", empty, "now"}, exitUsage},
		"a second argument of a backup": {[]string{"backup", "--data", data, "--to", to + "2", "now"}, exitUsage},
	} {
		if out, code := tool(t, c.args...); code != c.code {
			t.Errorf("%s: exit %d: %s", name, code, out)
		}
	}
	for _, path := range []string{empty + "/none", to + "2", to + "2" + unfinished} {
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s was made: %v", path, err)
		}
	}
	if names, err := os.ReadDir(empty); err != nil || len(names) > 0 {
		t.Errorf("the empty folder has %v, %v", names, err)
	}
}

// TestADamagedBackupIsNeverRestored damages one thing after another.
func TestADamagedBackupIsNeverRestored(t *testing.T) {
	t.Parallel()
	data := filled(t, 200)
	good := filepath.Join(t.TempDir(), "b")
	if out, code := tool(t, "backup", "--data", data, "--to", good, "--json"); code != 0 {
		t.Fatalf("exit %d: %s", code, out)
	}
	m, err := readManifest(good)
	if err != nil {
		t.Fatal(err)
	}
	edit := func(change func(*manifest)) func(string) error {
		return func(dir string) error {
			changed := m
			changed.Files = slices.Clone(m.Files)
			change(&changed)
			text, err := json.Marshal(changed)
			return errors.Join(err, os.WriteFile(filepath.Join(dir, manifestName), text, 0o600))
		}
	}
	damages := map[string]func(string) error{
		"no manifest":            func(dir string) error { return os.Remove(filepath.Join(dir, manifestName)) },
		"half a manifest":        func(dir string) error { return os.Truncate(filepath.Join(dir, manifestName), 200) },
		"a format of tomorrow":   edit(func(m *manifest) { m.Format++ }),
		"another count":          edit(func(m *manifest) { m.Log.Events++ }),
		"a file elsewhere":       edit(func(m *manifest) { m.Files[0].Path = "../" + m.Files[0].Path }),
		"a file at the root":     edit(func(m *manifest) { m.Files[0].Path = "/etc/hostname" }),
		"a file that is not its": edit(func(m *manifest) { m.Files = m.Files[:len(m.Files)-1] }),
	}
	for _, f := range m.Files {
		damages["no "+f.Path] = func(dir string) error { return os.Remove(filepath.Join(dir, f.Path)) }
		if f.Size > 0 {
			damages["another byte in "+f.Path] = func(dir string) error {
				path := filepath.Join(dir, f.Path)
				text, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				text[len(text)/2] ^= 0x20
				return os.WriteFile(path, text, 0o600)
			}
			damages["half of "+f.Path] = func(dir string) error { return os.Truncate(filepath.Join(dir, f.Path), f.Size/2) }
		}
	}
	above := t.TempDir()
	for name, damage := range damages {
		dir := filepath.Join(t.TempDir(), "b")
		if err := errors.Join(os.CopyFS(dir, os.DirFS(good)), damage(dir)); err != nil {
			t.Fatal(err)
		}
		for _, dryRun := range []bool{true, false} {
			r := restoration{from: dir, data: filepath.Join(above, "data"), dryRun: dryRun}
			if _, err := r.run(t.Context()); err == nil {
				t.Errorf("%s: it was taken (dry run: %t)", name, dryRun)
			}
		}
	}
	if names, err := os.ReadDir(above); err != nil || len(names) > 0 {
		t.Errorf("left behind: %v, %v", names, err)
	}
	if _, err := (restoration{from: good, data: filepath.Join(above, "data")}).run(t.Context()); err != nil {
		t.Errorf("the good one: %v", err)
	}
}

// TestABackupThatIsKilledIsNoBackup kills it wherever that finds it, until one
// gets through.
func TestABackupThatIsKilledIsNoBackup(t *testing.T) {
	t.Parallel()
	data := filled(t, 7000)
	to := filepath.Join(t.TempDir(), "b")
	killed := 0
	for i := range 10 {
		cmd := program(t.Context(), "backup", "--data", data, "--to", to)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(20+10*i) * time.Millisecond) // wherever that finds it
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if _, err := os.Stat(to); err != nil {
			killed++
			continue
		}
		break
	}
	if _, err := os.Stat(to); err != nil {
		if out, code := tool(t, "backup", "--data", data, "--to", to); code != 0 {
			t.Fatalf("after %d that were killed: exit %d: %s", killed, code, out)
		}
	}
	if out, code := tool(t, "restore", "--from", to, "--dry-run"); code != 0 || !strings.Contains(out, "7000 events") {
		t.Errorf("exit %d: %s", code, out)
	}
	t.Logf("%d were killed", killed)
}
