package esdbnode_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"cartwright/infra/esdbnode"
)

// keptFolders are logs of every format there ever was, each beside a listing of
// what is in it. Nobody writes to them: a test opens a copy. They were made by
// writeHistory, by the last program that wrote the format:
//
//	CARTWRIGHT_KEEP_LOG=testdata/format1 go test ./infra/esdbnode -run TestALogThatIsWrittenTodayHasTheSameHistory
const keptFolders = "testdata/format*"

// A longName is one whose length takes two bytes, with what else a name may have.
var longName = "odd/ é 名前\n$$-" + strings.Repeat("n", 200)

// writeHistory fills a folder with everything that leaves its own trace in one:
// every kind of event, streams with limits, deleted and ended ones, and gaps where
// something was scavenged. What comes behind the scavenge is in no table yet.
func writeHistory(t *testing.T, dir string) {
	t.Helper()
	var now atomic.Int64
	now.Store(time.Date(2026, 1, 2, 3, 4, 5, 600, time.UTC).UnixNano())
	r := start(t, esdbnode.Options{Dir: dir, MemTable: 64 << 10, Now: func() time.Time {
		return time.Unix(0, now.Add(int64(time.Second)))
	}})
	defer r.stop()
	client := dial(t, r.uri)
	binary := make([]byte, 256)
	for i := range binary {
		binary[i] = byte(i)
	}
	appendTo(t, client, "order-1", esdb.NoStream{},
		known(1, "order.placed", `{"buyer":"b-1","lines":[{"sku":"a","n":2}]}`, `{"cause":"c-1"}`),
		known(2, "order.paid", `{"amount":8800}`, ""),
		known(3, "订单", "", ""),
		esdb.EventData{EventID: idOf(4), EventType: "label.printed", ContentType: esdb.ContentTypeBinary, Data: binary, Metadata: []byte{0, 255}},
	)
	appendTo(t, client, longName, esdb.NoStream{}, known(5, strings.Repeat("k", 130), `"`+strings.Repeat("long ", 80)+`"`, `{"m":1}`))
	three := uint64(3)
	limit(t, client, "limited", esdb.StreamMetadata{}, &three)
	for i := range 6 {
		appendTo(t, client, "limited", esdb.Any{}, known(10+i, "counted", strconv.Itoa(i), ""))
	}
	for i, stream := range []string{"deleted", "again", "ended"} {
		appendTo(t, client, stream, esdb.NoStream{}, known(20+2*i, "e", "1", ""), known(21+2*i, "e", "2", ""))
	}
	remove(t, client, "deleted")
	remove(t, client, "again")
	appendTo(t, client, "again", esdb.NoStream{}, known(30, "anew", "{}", ""))
	bury(t, client, "ended")
	sweep(t, r.node)

	appendTo(t, client, "order-1", esdb.Revision(3), known(40, "order.shipped", `{"parcel":1}`, `{"cause":"c-2"}`))
	appendTo(t, client, "links", esdb.Any{}, esdb.EventData{EventID: idOf(41), EventType: "$>", ContentType: esdb.ContentTypeBinary, Data: []byte("3@order-1")})
	appendTo(t, client, "ended-later", esdb.Any{}, known(42, "e", "1", ""))
	bury(t, client, "ended-later")
	bury(t, client, "never-was")
	appendTo(t, client, "deleted-later", esdb.Any{}, known(43, "e", "1", ""), known(44, "e", "2", ""))
	remove(t, client, "deleted-later")
	two := uint64(2)
	appendTo(t, client, "limited-later", esdb.Any{}, known(45, "e", "1", ""), known(46, "e", "2", ""), known(47, "e", "3", ""))
	limit(t, client, "limited-later", esdb.StreamMetadata{}, &two)
}

func limit(t *testing.T, client *esdb.Client, stream string, meta esdb.StreamMetadata, maxCount *uint64) {
	t.Helper()
	if maxCount != nil {
		meta.SetMaxCount(*maxCount)
	}
	meta.AddCustomProperty("owner", "the kept folders")
	if _, err := client.SetStreamMetadata(t.Context(), stream, esdb.AppendToStreamOptions{ExpectedRevision: esdb.Any{}}, meta); err != nil {
		t.Fatal(err)
	}
}

func idOf(n int) uuid.UUID { return uuid.NewSHA1(uuid.NameSpaceURL, fmt.Append(nil, n)) }

func known(id int, kind, data, meta string) esdb.EventData {
	return esdb.EventData{EventID: idOf(id), EventType: kind, ContentType: esdb.ContentTypeJson, Data: []byte(data), Metadata: []byte(meta)}
}

// listingOf says what a log holds, as its readers are told, one event a line.
func listingOf(t *testing.T, client *esdb.Client) string {
	t.Helper()
	all, err := log(t.Context(), client, esdb.ReadAllOptions{From: esdb.Start{}})
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, e := range all {
		r := e.Event
		id := r.EventID.String()
		if r.EventID.Version() == 4 {
			id = "of the node" // it is random
		}
		fmt.Fprintf(&b, "%d %q@%d %s %q %s %q %q\n", r.Position.Commit, r.StreamID, r.EventNumber, id, r.EventType, r.ContentType, r.UserMetadata, r.Data)
	}
	return b.String()
}

// wantHistory compares a log with a listing, and asks it for what no listing shows.
func wantHistory(t *testing.T, dir, listing string) {
	t.Helper()
	r := start(t, esdbnode.Options{Dir: dir, TailEvents: 2})
	defer r.stop()
	client := dial(t, r.uri)
	if diff := cmp.Diff(listing, listingOf(t, client)); diff != "" {
		t.Errorf("it has not what it had (-want +got):\n%s", diff)
	}
	scanned := 0
	for _, err := range r.node.Scan(t.Context(), 0, "") {
		if err != nil {
			t.Fatal(err)
		}
		scanned++
	}
	if want := strings.Count(listing, "\n"); scanned != want {
		t.Errorf("a scan finds %d events, want %d", scanned, want)
	}
	for stream, want := range map[string]string{
		"order-1": "[0 1 2 3 4]", longName: "[0]", "limited": "[3 4 5]", "again": "[2]", "limited-later": "[1 2]", "links": "[0]",
	} {
		events, err := readAll(t.Context(), client, stream, esdb.ReadStreamOptions{From: esdb.Start{}}, 100)
		if got := fmt.Sprint(numbers(events)); err != nil || got != want {
			t.Errorf("%q has %s, want %s: %v", stream, got, want, err)
		}
	}
	for stream, want := range map[string]esdb.ErrorCode{
		"deleted": esdb.ErrorCodeResourceNotFound, "deleted-later": esdb.ErrorCodeResourceNotFound,
		"ended": esdb.ErrorCodeStreamDeleted, "ended-later": esdb.ErrorCodeStreamDeleted, "never-was": esdb.ErrorCodeStreamDeleted,
	} {
		if _, err := readAll(t.Context(), client, stream, esdb.ReadStreamOptions{}, 1); codeOf(err) != want {
			t.Errorf("%s: %v", stream, err)
		}
	}
	events, err := readAll(t.Context(), client, "order-1", esdb.ReadStreamOptions{}, 1)
	if want := time.Date(2026, 1, 2, 3, 4, 6, 600, time.UTC); err != nil || !events[0].Event.CreatedDate.Equal(want) {
		t.Errorf("order-1 began at %v, want %v: %v", events[0].Event.CreatedDate, want, err)
	}
	meta, err := client.GetStreamMetadata(t.Context(), "limited", esdb.ReadStreamOptions{})
	if err != nil || meta.MaxCount() == nil || *meta.MaxCount() != 3 {
		t.Errorf("metadata of limited: %v, %v", meta, err)
	}
}

// wantWhole has every byte of a log checked that nobody has open.
func wantWhole(t *testing.T, dir string, events int) {
	t.Helper()
	if found, err := esdbnode.Check(t.Context(), dir); err != nil || found.Events != uint64(events) {
		t.Errorf("%+v, want %d events: %v", found, events, err)
	}
}

// TestALogOfEveryFormatIsRead opens a copy of every kept folder, goes on with it,
// and opens it again: what was written by any program that came before is there.
func TestALogOfEveryFormatIsRead(t *testing.T) {
	folders, err := filepath.Glob(keptFolders)
	if err != nil {
		t.Fatal(err)
	}
	kept := 0
	for _, folder := range folders {
		if strings.HasSuffix(folder, ".txt") {
			continue
		}
		kept++
		t.Run(filepath.Base(folder), func(t *testing.T) {
			listing, err := os.ReadFile(folder + ".txt")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(filepath.Join(folder, "WITNESS")); err == nil {
				t.Error("the program that wrote it made no witness")
			}
			dir, events := copyOf(t, folder), strings.Count(string(listing), "\n")
			wantWhole(t, dir, events)
			wantHistory(t, dir, string(listing))
			wantWhole(t, dir, events)
			goOn(t, dir)
			goOn(t, dir)
			wantWhole(t, dir, events+2*3)
		})
	}
	if kept == 0 {
		t.Errorf("there is no folder %s", keptFolders)
	}
}

// goOn repeats an append that is in the log, and makes new ones: to a stream that
// was there, to one that was deleted and to one that was not.
func goOn(t *testing.T, dir string) {
	t.Helper()
	r := start(t, esdbnode.Options{Dir: dir})
	defer r.stop()
	client := dial(t, r.uri)
	again := appendTo(t, client, "order-1", esdb.Revision(3), known(40, "order.shipped", `{"parcel":1}`, `{"cause":"c-2"}`))
	if again.NextExpectedVersion != 4 {
		t.Errorf("a repeat: %+v", again)
	}
	head := r.node.Head()
	for _, stream := range []string{"order-1", longName, "new-" + uuid.NewString()} {
		head++
		if res := appendTo(t, client, stream, esdb.Any{}, fresh("more")...); res.CommitPosition != head {
			t.Errorf("%q went on at %d, want %d", stream, res.CommitPosition, head)
		}
	}
	if _, err := client.AppendToStream(context.WithoutCancel(t.Context()), "ended", esdb.AppendToStreamOptions{ExpectedRevision: esdb.Any{}}, fresh("e")...); codeOf(err) != esdb.ErrorCodeStreamDeleted {
		t.Errorf("an append to an ended stream: %v", err)
	}
}

// TestALogThatIsWrittenTodayHasTheSameHistory writes the history of the kept
// folders with the program of today, which keeps a folder for the tests of later
// ones where it is told to.
func TestALogThatIsWrittenTodayHasTheSameHistory(t *testing.T) {
	if keep := os.Getenv("CARTWRIGHT_KEEP_LOG"); keep != "" {
		writeHistory(t, keep)
		if err := os.Remove(filepath.Join(keep, "LOCK")); err != nil {
			t.Fatal(err)
		}
		r := start(t, esdbnode.Options{Dir: copyOf(t, keep)})
		if err := os.WriteFile(keep+".txt", []byte(listingOf(t, dial(t, r.uri))), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	writeHistory(t, dir)
	listing, err := os.ReadFile("testdata/format1.txt")
	if err != nil {
		t.Fatal(err)
	}
	wantHistory(t, dir, string(listing))
}

func copyOf(t *testing.T, folder string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "log")
	if err := os.CopyFS(dir, os.DirFS(folder)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestReadingAnEventTakesOnePieceOfMemory: what is read most is what it is read for.
func TestReadingAnEventTakesOnePieceOfMemory(t *testing.T) {
	frame := esdbnode.Frame(esdbnode.Stored{Position: 7, Stream: "s", Kind: "k", Meta: "m", Data: string(payload)})
	taken := testing.AllocsPerRun(100, func() {
		if _, err := esdbnode.Unframe(7, frame); err != nil {
			t.Error(err)
		}
	})
	if taken != 1 {
		t.Errorf("it took %v", taken)
	}
}
