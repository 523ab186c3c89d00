package esdbnode_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"cartwright/infra/esdbnode"
)

// A listed is what a stream is, as far as beginning it goes.
type listed struct {
	events         int
	deleted, ended bool
}

// A rollCall is a node under test and what its streams are.
type rollCall struct {
	*rapid.T
	disk    *vfs.MemFS
	node    *esdbnode.Node
	streams map[string]*listed
}

func (l *rollCall) open() {
	var err error
	if l.node, err = esdbnode.Open(esdbnode.Options{Dir: "log", FS: l.disk, MemTable: 256 << 10}); err != nil {
		l.Fatal(err)
	}
	if rapid.Bool().Draw(l.T, "all are listed first") {
		l.node.Listed()
	}
}

func (l *rollCall) shut() {
	if err := l.node.Close(l.Context()); err != nil {
		l.Fatal(err)
	}
}

// crash leaves what was synced, and opens that.
func (l *rollCall) crash() {
	left := l.disk.CrashClone(vfs.CrashCloneCfg{})
	l.shut()
	l.disk = left
	l.open()
}

func (l *rollCall) scavenge() {
	if _, err := l.node.Scavenge(l.Context()); err != nil {
		l.Fatal(err)
	}
}

func (l *rollCall) try() {
	name := rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f"}).Draw(l.T, "stream")
	what := rapid.SampledFrom([]string{"begin", "begin", "append", "describe", "delete", "bury"}).Draw(l.T, "what")
	s := l.streams[name]
	if s == nil {
		s = &listed{}
		l.streams[name] = s
	}
	got, err := l.node.Try(l.Context(), what, name)
	if err != nil {
		l.Fatal(err)
	}
	if want := s.begin(); what == "begin" && got != want {
		l.Fatalf("to begin %s, which is %+v: %s, and it should be %s", name, *s, got, want)
	}
	if got == "accepted" {
		s.take(what)
	}
}

// begin is the verdict on an append that expects no stream.
func (s *listed) begin() string {
	switch {
	case s.ended:
		return "deleted"
	case s.events > 0 && !s.deleted:
		return "wrong_version"
	}
	return "accepted"
}

func (s *listed) take(what string) {
	switch what {
	case "begin", "append":
		s.events++
		s.deleted = false
	case "describe":
		s.deleted = false
	case "delete":
		s.deleted = true
	case "bury":
		s.ended = true
	}
}

func TestAStreamThatIsThereIsNeverTakenForANewOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := &rollCall{T: t, disk: vfs.NewCrashableMem(), streams: map[string]*listed{}}
		l.open()
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0:
				l.shut()
				l.open()
			case 1:
				l.crash()
			case 2:
				l.scavenge()
			default:
				l.try()
			}
		}
		l.node.Listed()
		if lacking, err := l.node.Lacking(); err != nil || len(lacking) > 0 {
			t.Errorf("%v are there, and said to be new; %v", lacking, err)
		}
		l.shut()
	})
}

// TestStreamsAreListedPageByPage opens a log of more streams than are listed in one
// go, and begins others meanwhile.
func TestStreamsAreListedPageByPage(t *testing.T) {
	const old, fresh = 10_000, 500
	disk := vfs.NewCrashableMem()
	open := func() *esdbnode.Node {
		node, err := esdbnode.Open(esdbnode.Options{Dir: "log", FS: disk, MemTable: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		return node
	}
	node := open()
	beginAll(t, node, "old-", old)
	closeNode(t, node)
	closeNode(t, open()) // while it lists them

	node = open()
	beginAll(t, node, "fresh-", fresh)
	node.Listed()
	if lacking, err := node.Lacking(); err != nil || len(lacking) > 0 {
		t.Errorf("%d streams are there, and said to be new; %v", len(lacking), err)
	}
	looked := 0
	for i := range old {
		if !node.Lacks("new-" + strconv.Itoa(i)) {
			looked++
		}
	}
	if looked > old/50 {
		t.Errorf("%d of %d streams that are new are looked for on the disk", looked, old)
	}
	closeNode(t, node)
}

// TestAStreamWhoseHeadIsDamagedIsNotTakenForANewOne flips bytes in a log of short
// events, here and there.
func TestAStreamWhoseHeadIsDamagedIsNotTakenForANewOne(t *testing.T) {
	const streams = 4000
	dir := t.TempDir()
	node, err := esdbnode.Open(esdbnode.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	beginAll(t, node, "order-", streams)
	closeNode(t, node)
	alter(t, dir, func(db *pebble.DB) error {
		return errors.Join(db.Flush(), db.Compact(t.Context(), []byte{0}, []byte{255}, false))
	})
	tables, err := filepath.Glob(filepath.Join(dir, "*.sst"))
	if err != nil || len(tables) != 1 {
		t.Fatal(tables, err)
	}
	info, err := os.Stat(tables[0])
	if err != nil {
		t.Fatal(err)
	}
	unlisted := 0
	for at := int64(0); at < info.Size(); at += info.Size() / 25 {
		changed := copyOf(t, dir)
		flip(t, filepath.Join(changed, filepath.Base(tables[0])), at)
		if node, err = esdbnode.Open(esdbnode.Options{Dir: changed}); err != nil {
			continue // it is told at once
		}
		node.Listed()
		if !node.Lacks("new") {
			unlisted++
		}
		for i := 0; i < streams; i += 50 {
			if got, err := node.Try(t.Context(), "begin", "order-"+strconv.Itoa(i)); err == nil && got == "accepted" {
				t.Fatalf("byte %d: order-%d was begun again", at, i)
			}
		}
		closeNode(t, node)
	}
	if unlisted == 0 {
		t.Error("no head was damaged")
	}
}

// beginAll begins streams, eight at once.
func beginAll(t *testing.T, node *esdbnode.Node, name string, streams int) {
	t.Helper()
	var beginning sync.WaitGroup
	for first := range 8 {
		beginning.Go(func() {
			for i := first; i < streams; i += 8 {
				if got, err := node.Try(t.Context(), "begin", name+strconv.Itoa(i)); err != nil || got != "accepted" {
					t.Errorf("begin %s%d: %s, %v", name, i, got, err)
				}
			}
		})
	}
	beginning.Wait()
}

func closeNode(t *testing.T, node *esdbnode.Node) {
	t.Helper()
	if err := node.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestARosterHasAllItsNamesAndLacksMostOthers(t *testing.T) {
	for _, names := range []uint64{0, 1, 1000, 1_500_000} { // the last in three parts
		r := esdbnode.NewRoster(names)
		for i := range names {
			if r.Lacks(i) {
				t.Fatalf("of %d names it lacks %d", names, i)
			}
		}
		const others = 100_000
		seem := 0
		for i := range uint64(others) {
			if !r.Lacks(names + i) {
				seem++
			}
		}
		if seem > others/50 {
			t.Errorf("of %d names that are not among %d, %d seem to be", others, names, seem)
		}
	}
}

// BenchmarkRoster asks for a name that is not there.
func BenchmarkRoster(b *testing.B) {
	for _, names := range []uint64{10_000, 1_000_000, 10_000_000} {
		b.Run(fmt.Sprintf("names=%d", names), func(b *testing.B) {
			r := esdbnode.NewRoster(names)
			other, seem := names, 0
			for b.Loop() {
				if !r.Lacks(other) {
					seem++
				}
				other++
			}
			b.ReportMetric(float64(r.Bytes()), "B")
			b.ReportMetric(100*float64(seem)/float64(b.N), "%-seem")
		})
	}
}
