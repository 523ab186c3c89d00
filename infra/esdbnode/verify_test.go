package esdbnode_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/cockroachdb/pebble/v2"
	"github.com/google/go-cmp/cmp"

	"cartwright/infra/esdbnode"
)

// The keys of a log, as tests damage them.
func eventAt(position uint64) []byte { return binary.BigEndian.AppendUint64([]byte{'e'}, position) }

func placeOf(stream string, number uint64) []byte {
	return binary.BigEndian.AppendUint64(append([]byte{'i', byte(len(stream))}, stream...), number)
}

func positionIs(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// damaged makes a log of two streams of three events each, changes it behind the
// node's back, and gives what Verify finds.
func damaged(t *testing.T, change func(*pebble.DB) error) []string {
	t.Helper()
	dir := t.TempDir()
	r := start(t, esdbnode.Options{Dir: dir})
	client := dial(t, r.uri)
	for range 3 {
		write(t, client, "s", 1)
		write(t, client, "other", 1)
	}
	r.stop()
	alter(t, dir, change)
	return foundIn(t, dir, 0)
}

func alter(t *testing.T, dir string, change func(*pebble.DB) error) {
	t.Helper()
	db, err := pebble.Open(dir, &pebble.Options{FormatMajorVersion: pebble.FormatTableFormatV6, Logger: silent{}})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(change(db), db.Close()); err != nil {
		t.Fatal(err)
	}
}

func foundIn(t *testing.T, dir string, limit int) (all []string) {
	t.Helper()
	found, err := esdbnode.Verify(t.Context(), dir, esdbnode.Verification{Limit: limit})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range found.Damage {
		all = append(all, d.String())
	}
	if found.More {
		all = append(all, "more")
	}
	return all
}

// flipped changes one byte of a stored value.
func flipped(key []byte, at int) func(*pebble.DB) error {
	return func(db *pebble.DB) error {
		value, closer, err := db.Get(key)
		if err != nil {
			return err
		}
		changed := bytes.Clone(value)
		changed[(at+len(changed))%len(changed)] ^= 1
		return errors.Join(closer.Close(), db.Set(key, changed, pebble.Sync))
	}
}

func gone(key []byte) func(*pebble.DB) error {
	return func(db *pebble.DB) error { return db.Delete(key, pebble.Sync) }
}

func is(key, value []byte) func(*pebble.DB) error {
	return func(db *pebble.DB) error { return db.Set(key, value, pebble.Sync) }
}

func all(changes ...func(*pebble.DB) error) func(*pebble.DB) error {
	return func(db *pebble.DB) error {
		for _, change := range changes {
			if err := change(db); err != nil {
				return err
			}
		}
		return nil
	}
}

// TestCheckFindsDamage changes what is stored behind the node's back: every change
// is found, told with its place, and nothing else is.
func TestCheckFindsDamage(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*pebble.DB) error
		want   []string
	}{
		"nothing":               {all(), nil},
		"a changed byte":        {flipped(eventAt(3), -1), []string{"position 3, s@1: checksum: stored event is damaged"}},
		"an event that is gone": {gone(eventAt(3)), []string{"position 3, s@1: the event is gone"}},
		"the newest event is gone": {gone(eventAt(6)), []string{
			"position 6: events that were acknowledged are not in the log any more", "position 6, other@2: the event is gone",
		}},
		"a place that is gone":           {gone(placeOf("s", 1)), []string{"position 3, s@1: the event has no place in its stream"}},
		"a gap in a stream":              {all(gone(placeOf("s", 1)), gone(eventAt(3))), []string{"s@1: the stream goes on with 2"}},
		"a stream without its beginning": {all(gone(placeOf("s", 0)), gone(eventAt(1))), []string{"stream s: the stream begins with 1, and by its head with 0"}},
		"a stream without its end":       {all(gone(placeOf("s", 2)), gone(eventAt(5))), []string{"stream s: the stream ends with 1, and by its head with 2"}},
		"a stream without a head":        {gone([]byte("hs")), []string{"stream s: the stream has no head"}},
		"a damaged head":                 {is([]byte("hs"), []byte{1, 0, 0xff}), []string{"stream s: head of 3 bytes is damaged"}},
		"a head of a stream that is not there": {
			is([]byte("hx"), []byte{1, 0, 2, 3, 0, 0, 0}),
			[]string{"x@0: the stream has no events, and by its head 2"},
		},
		"places that run backwards": {
			all(is(placeOf("s", 1), positionIs(5)), is(placeOf("s", 2), positionIs(3))),
			[]string{
				"position 3, s@2: the event before it in its stream is behind it, at position 5",
				"position 3, s@1: its stream has the event of position 5 in its place",
				"position 5, s@2: its stream has the event of position 3 in its place",
				"position 5, s@1: the event there is s@2",
				"position 3, s@2: the event there is s@1",
				"stream s: the stream ends at position 3, and by its head at 5",
			},
		},
		"a place that leads to another stream's event": {
			is(placeOf("s", 1), positionIs(4)),
			[]string{"position 3, s@1: its stream has the event of position 4 in its place", "position 4, s@1: the event there is other@1"},
		},
		"a short place": {is(placeOf("s", 2), []byte{1}), []string{
			"stream s: a place of 11 and 1 bytes is none", "stream s: the stream ends with 1, and by its head with 2",
		}},
		"a key of another length": {is([]byte("e!"), nil), []string{"a key of 2 bytes is no event's"}},
		"much at once": {
			all(flipped(eventAt(1), 10), flipped(eventAt(6), 30), gone(eventAt(3)), gone(placeOf("other", 1)), gone([]byte("hother"))),
			[]string{
				"position 1, s@0: checksum: stored event is damaged",
				"position 6, other@2: checksum: stored event is damaged",
				"position 4, other@1: the event has no place in its stream",
				"position 3, s@1: the event is gone",
				"stream other: the stream has no head",
			},
		},
	} {
		got := damaged(t, c.change)
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestCheckStopsAtTheFirstDamageAndVerifyAtALimit(t *testing.T) {
	dir := t.TempDir()
	r := start(t, esdbnode.Options{Dir: dir})
	write(t, dial(t, r.uri), "s", 9)
	r.stop()
	alter(t, dir, all(flipped(eventAt(2), -1), flipped(eventAt(4), -1), flipped(eventAt(6), -1)))
	if _, err := esdbnode.Check(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "position 2: checksum") {
		t.Errorf("Check: %v", err)
	}
	if got := foundIn(t, dir, 2); len(got) != 3 || got[2] != "more" {
		t.Errorf("two of three: %q", got)
	}
	if got := foundIn(t, dir, 3); len(got) != 3 || slices.Contains(got, "more") {
		t.Errorf("three of three: %q", got)
	}
}

// inTables fills a folder with events that are in tables of several blocks, and
// gives how many there are.
func inTables(t *testing.T, dir string) (events int) {
	t.Helper()
	r := start(t, esdbnode.Options{Dir: dir, MemTable: 256 << 10})
	client := dial(t, r.uri)
	for i := range 200 {
		n := 1 + i%9
		batch := make([]esdb.EventData, n)
		for k := range batch {
			batch[k] = known(1000*i+k, "e", fmt.Sprintf("%q", bytes.Repeat([]byte{byte('a' + i%26)}, 300)), "")
		}
		appendTo(t, client, fmt.Sprintf("order-%03d", i%60), esdb.Any{}, batch...)
		events += n
	}
	r.stop()
	alter(t, dir, func(db *pebble.DB) error {
		return errors.Join(db.Flush(), db.Compact(t.Context(), []byte{0}, []byte{255}, false))
	})
	return events
}

// flip changes one byte of a file.
func flip(t *testing.T, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	b := []byte{0}
	_, err = f.ReadAt(b, at)
	b[0] ^= 0x10
	_, werr := f.WriteAt(b, at)
	if err = errors.Join(err, werr, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestAFlippedByteInAFileIsToldWithItsPlace flips a byte here and there in the
// tables of a log: every block that was hit is named, and every event that can't be
// read for it; the others are counted as ever.
func TestAFlippedByteInAFileIsToldWithItsPlace(t *testing.T) {
	dir := t.TempDir()
	events := inTables(t, dir)
	tables, err := filepath.Glob(filepath.Join(dir, "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatal(err)
	}
	info, err := os.Stat(tables[0])
	if err != nil || info.Size() < 40<<10 {
		t.Fatalf("a table of %d bytes has few blocks: %v", info.Size(), err)
	}
	for _, hits := range [][]int64{{1000}, {20_000}, {1000, 20_000}, {info.Size() - 3000}, {1000, 10_000, 20_000, 30_000}} {
		broken := copyOf(t, dir)
		for _, at := range hits {
			flip(t, filepath.Join(broken, filepath.Base(tables[0])), at)
		}
		found, err := esdbnode.Verify(t.Context(), broken, esdbnode.Verification{})
		if err != nil {
			t.Fatal(err)
		}
		blocks, lost := map[uint64]bool{}, 0
		for _, d := range found.Damage {
			if d.File != filepath.Base(tables[0]) {
				t.Errorf("of another file: %s", d)
			}
			if d.Offset > 0 || strings.HasPrefix(d.What, "a block") {
				blocks[d.Offset] = true
			} else if d.Position > 0 {
				lost += int(max(d.Last, d.Position) - d.Position + 1)
			}
			t.Log(d)
		}
		if len(blocks) == 0 || len(blocks) > len(hits) {
			t.Errorf("bytes %v: %d blocks are named", hits, len(blocks))
		}
		if int(found.Events)+lost != events {
			t.Errorf("bytes %v: %d events and %d that can't be read are not %d", hits, found.Events, lost, events)
		}
	}
}

// TestNoByteOfALogChangesUnnoticed flips bytes of every file of a kept log, one at
// a time. Either that is told, or the log says what it said before; only what ends
// the write-ahead log may be taken for an append that was never finished.
func TestNoByteOfALogChangesUnnoticed(t *testing.T) {
	const folder = "testdata/format1"
	whole, err := esdbnode.Check(t.Context(), copyOf(t, folder))
	if err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	dir, told, cut := copyOf(t, folder), 0, 0
	for _, f := range files {
		path := filepath.Join(dir, f.Name())
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for at := int64(0); at < int64(len(text)); at += 17 {
			flip(t, path, at)
			found, err := esdbnode.Verify(t.Context(), dir, esdbnode.Verification{})
			switch {
			case err != nil || len(found.Damage) > 0:
				told++
			case found.Contents == whole:
			case filepath.Ext(path) == ".log" && found.Position < whole.Position:
				cut++
			default:
				t.Errorf("%s at %d: %+v", f.Name(), at, found)
			}
			flip(t, path, at)
		}
	}
	if found, err := esdbnode.Check(t.Context(), dir); err != nil || found != whole {
		t.Errorf("the folder is not what it was: %+v, %v", found, err)
	}
	t.Logf("%d flips were told, %d cut the end off", told, cut)
	if told < 100 {
		t.Errorf("only %d were told", told)
	}
}

// TestADamagedFileIsToldNotServed runs a node on a log of which a block of a table
// was changed: whoever asks for what was in it is told, and all else works on.
func TestADamagedFileIsToldNotServed(t *testing.T) {
	dir := t.TempDir()
	inTables(t, dir)
	tables, err := filepath.Glob(filepath.Join(dir, "*.sst"))
	if err != nil || len(tables) != 1 {
		t.Fatal(tables, err)
	}
	flip(t, tables[0], 20_000)
	lost, err := esdbnode.Verify(t.Context(), dir, esdbnode.Verification{})
	if err != nil || len(lost.Damage) != 2 {
		t.Fatal(lost, err)
	}
	first, broken := lost.Damage[1].Position, lost.Damage[1].Streams[0]
	r := start(t, esdbnode.Options{Dir: dir})
	client := dial(t, r.uri)
	got, err := log(t.Context(), client, esdb.ReadAllOptions{From: esdb.Start{}})
	if err == nil || uint64(len(got)) >= first {
		t.Errorf("%d events of the log were read, and %d can't be: %v", len(got), first, err)
	}
	if _, err := readAll(t.Context(), client, broken, esdb.ReadStreamOptions{}, 100); err == nil {
		t.Errorf("%s was read", broken)
	}
	if _, err := readAll(t.Context(), client, "order-059", esdb.ReadStreamOptions{}, 100); err != nil {
		t.Errorf("another stream: %v", err)
	}
	write(t, client, "new", 3)
	write(t, client, "order-059", 1)
}

// stopped gives the folder of a log of which nothing is in a table yet, and its
// write-ahead log.
func stopped(t *testing.T) (dir, wal string, text []byte) {
	t.Helper()
	dir = t.TempDir()
	r := start(t, esdbnode.Options{Dir: dir})
	write(t, dial(t, r.uri), "s", 5)
	r.stop()
	logs, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil || len(logs) != 1 {
		t.Fatal(logs, err)
	}
	if text, err = os.ReadFile(logs[0]); err != nil {
		t.Fatal(err)
	}
	return dir, filepath.Base(logs[0]), text
}

// TestALogThatWouldLoseItsEndIsNotOpened changes a byte of what is in no table yet.
// To Pebble that is the end of the log, and all behind it was never written.
func TestALogThatWouldLoseItsEndIsNotOpened(t *testing.T) {
	dir, wal, text := stopped(t)
	const trailer = 11 // it holds nothing
	for at := 3; at < len(text)-trailer; at += 40 {
		changed := copyOf(t, dir)
		flip(t, filepath.Join(changed, wal), int64(at))
		node, err := esdbnode.Open(esdbnode.Options{Dir: changed})
		if err == nil {
			t.Errorf("byte %d: it was opened at %d", at, node.Head())
			_ = node.Close(t.Context())
			continue
		}
		if !strings.Contains(err.Error(), wal) {
			t.Errorf("byte %d: %v", at, err)
		}
	}
}

// TestALogThatWasCutOffIsOpened cuts a log where a killed process may have left off,
// before anything was stated about it.
func TestALogThatWasCutOffIsOpened(t *testing.T) {
	dir, wal, text := stopped(t)
	if err := os.Remove(filepath.Join(dir, "WITNESS")); err != nil {
		t.Fatal(err)
	}
	for end := len(text) - 1; end >= 0; end -= 37 {
		cut := copyOf(t, dir)
		if err := os.Truncate(filepath.Join(cut, wal), int64(end)); err != nil {
			t.Fatal(err)
		}
		if got := foundIn(t, cut, 0); got != nil {
			t.Errorf("cut at %d: %q", end, got)
		}
		start(t, esdbnode.Options{Dir: cut}).stop()
	}
}

// TestVerifyTellsWhatTheWitnessDoesNotAgreeWith changes what Pebble would take for
// the end of a file: the file is named and what is wrong with it, and how much that
// costs. No node opens such a folder.
func TestVerifyTellsWhatTheWitnessDoesNotAgreeWith(t *testing.T) {
	whole, wal, text := stopped(t)
	lists, err := filepath.Glob(filepath.Join(whole, "MANIFEST-*"))
	if err != nil || len(lists) != 1 {
		t.Fatal(lists, err)
	}
	list := filepath.Base(lists[0])
	for name, c := range map[string]struct {
		change func(dir string) error
		want   []string // the beginning of each line
	}{
		"a byte in the middle of the write-ahead log": {
			func(dir string) error { flip(t, filepath.Join(dir, wal), int64(len(text)/2)); return nil },
			[]string{
				fmt.Sprintf("file %s: the %d bytes that had been synced to the file are not what they were: checksum ", wal, len(text)),
				"positions 1 to 5: events that were acknowledged are not in the log any more",
			},
		},
		"a write-ahead log that is cut short": {
			func(dir string) error { return os.Truncate(filepath.Join(dir, wal), int64(len(text)-100)) },
			[]string{
				fmt.Sprintf("file %s at byte %d: the file ends there, and %d bytes had been synced to it", wal, len(text)-100, len(text)),
				"positions 1 to 5: events that were acknowledged are not in the log any more",
			},
		},
		"no write-ahead log": {
			func(dir string) error { return os.Remove(filepath.Join(dir, wal)) },
			[]string{
				fmt.Sprintf("file %s: the file is gone, and %d bytes had been synced to it", wal, len(text)),
				"positions 1 to 5: events that were acknowledged are not in the log any more",
			},
		},
		"a byte in the list of tables": {
			func(dir string) error { flip(t, filepath.Join(dir, list), 12); return nil },
			[]string{"file " + list + ": the "},
		},
		"a list of tables that is cut short": {
			func(dir string) error { return os.Truncate(filepath.Join(dir, list), 12) },
			[]string{"file " + list + " at byte 12: the file ends there, and "},
		},
		"no list of tables": {
			func(dir string) error {
				return errors.Join(os.Remove(filepath.Join(dir, list)), os.Remove(filepath.Join(dir, "marker.manifest.000001."+list)))
			},
			[]string{"file MANIFEST: the list of tables is gone, of a log up to position 5"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := copyOf(t, whole)
			if err := c.change(dir); err != nil {
				t.Fatal(err)
			}
			got := foundIn(t, dir, 0)
			for i, want := range c.want {
				if i >= len(got) || !strings.HasPrefix(got[i], want) {
					t.Errorf("got %q, want %q", got, c.want)
					break
				}
			}
			t.Logf("%q", got)
			if node, err := esdbnode.Open(esdbnode.Options{Dir: dir}); err == nil {
				t.Errorf("it was opened at %d", node.Head())
				_ = node.Close(t.Context())
			}
		})
	}
}

// TestAWitnessThatCannotBeReadIsNotTheLog damages the witness alone: Verify says so,
// and a node goes on with a new one.
func TestAWitnessThatCannotBeReadIsNotTheLog(t *testing.T) {
	dir, _, _ := stopped(t)
	witness := filepath.Join(dir, "WITNESS")
	if err := os.WriteFile(witness, bytes.Repeat([]byte("x"), 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := foundIn(t, dir, 0); len(got) != 1 || !strings.HasPrefix(got[0], "file WITNESS: ") {
		t.Errorf("%q", got)
	}
	start(t, esdbnode.Options{Dir: dir}).stop()
	if got := foundIn(t, dir, 0); got != nil {
		t.Errorf("afterwards: %q", got)
	}
}

// TestAFolderThatIsOnlyMarkedIsAnEmptyLog is of a node that was killed just when it
// began; one that has files and no list of them is damaged.
func TestAFolderThatIsOnlyMarkedIsAnEmptyLog(t *testing.T) {
	marked, wal, _ := stopped(t)
	for name := range sums(t, marked) {
		if name != "FORMAT" && name != wal {
			if err := os.Remove(filepath.Join(marked, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := foundIn(t, marked, 0); len(got) != 1 || !strings.Contains(got[0], "no list of tables") {
		t.Errorf("%q", got)
	}
	if err := os.Remove(filepath.Join(marked, wal)); err != nil {
		t.Fatal(err)
	}
	if got := foundIn(t, marked, 0); got != nil {
		t.Errorf("%q", got)
	}
	start(t, esdbnode.Options{Dir: marked}).stop()
}

// sums are the files of a folder with what is in them.
func sums(t *testing.T, dir string) map[string]string {
	t.Helper()
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, n := range names {
		text, err := os.ReadFile(filepath.Join(dir, n.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all[n.Name()] = fmt.Sprintf("%d bytes, %x", len(text), sha256.Sum256(text))
	}
	return all
}

// TestVerifyChangesNothing looks at every byte of a folder before and after: of one
// that was closed, of one that nobody ever locked, of damaged ones.
func TestVerifyChangesNothing(t *testing.T) {
	closed, wal, _ := stopped(t)
	broken := copyOf(t, closed)
	flip(t, filepath.Join(broken, wal), 200)
	tables := t.TempDir()
	inTables(t, tables)
	for name, dir := range map[string]string{
		"closed": closed, "of the first program": copyOf(t, "testdata/format1"), "damaged": broken, "of tables": tables,
	} {
		before := sums(t, dir)
		foundIn(t, dir, 0)
		if diff := cmp.Diff(before, sums(t, dir)); diff != "" {
			t.Errorf("%s (-before +after):\n%s", name, diff)
		}
	}
}

func TestVerifyAndANodeKeepOutOfEachOthersWay(t *testing.T) {
	dir := t.TempDir()
	r := start(t, esdbnode.Options{Dir: dir})
	write(t, dial(t, r.uri), "s", 2)
	if _, err := esdbnode.Verify(t.Context(), dir, esdbnode.Verification{}); !errors.Is(err, esdbnode.ErrInUse) {
		t.Errorf("of a log that a node has open: %v", err)
	}
	r.stop()
	asked := false
	r = start(t, esdbnode.Options{Dir: dir})
	client := dial(t, r.uri)
	for i := range 9 { // it is told every 16,384 positions
		write(t, client, fmt.Sprint("s-", i), 2000)
	}
	r.stop()
	found, err := esdbnode.Verify(t.Context(), dir, esdbnode.Verification{Tell: func(uint64) {
		asked = true
		if _, err := esdbnode.Open(esdbnode.Options{Dir: dir}); !errors.Is(err, esdbnode.ErrInUse) {
			t.Errorf("a log that is being verified was opened: %v", err)
		}
	}})
	if err != nil || len(found.Damage) > 0 || !asked {
		t.Errorf("%+v, asked %t: %v", found, asked, err)
	}
}
