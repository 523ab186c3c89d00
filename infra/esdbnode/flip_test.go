package esdbnode_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"cartwright/infra/esdbnode"
)

// soak tells whether tests are to take as long as they may.
func soak() bool { return os.Getenv("CARTWRIGHT_SOAK") != "" }

// TestAFlippedByteIsToldAndNeverServed flips a byte in a file of a log that was
// closed, or killed, one file after the other. Check finds it, or all of the log
// is as it was; and a node that opens it serves what was written, or an error.
func TestAFlippedByteIsToldAndNeverServed(t *testing.T) {
	tries := 3
	if soak() {
		tries = 200
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	closed, killed := t.TempDir(), t.TempDir()
	want := fillFolder(t, closed, killed)
	for how, whole := range map[string]string{"closed": closed, "killed": killed} {
		names, err := os.ReadDir(whole)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range names {
			info, err := file.Info()
			if err != nil {
				t.Fatal(err)
			}
			found, refused := 0, 0
			for range tries {
				if info.Size() == 0 {
					continue
				}
				said, opened := flipAndOpen(t, whole, file.Name(), rng.Int64N(info.Size()), rng.IntN(8), want)
				if said {
					found++
				}
				if !opened {
					refused++
				}
			}
			t.Logf("%s: %s of %d bytes: %d of %d flips were found, %d were refused", how, file.Name(), info.Size(), found, tries, refused)
		}
	}
}

// fillFolder makes a log of tables and of a write-ahead log, once closed and once
// as a kill would leave it, and gives its events.
func fillFolder(t *testing.T, closed, killed string) []string {
	t.Helper()
	r := start(t, esdbnode.Options{Dir: closed, MemTable: 256 << 10})
	client := dial(t, r.uri)
	for i := range 60 {
		events, _ := secrets(t, 3, 5000)
		appendTo(t, client, fmt.Sprintf("s-%d", i%7), esdb.Any{}, events...)
	}
	for i := range 20 { // each in a commit of its own
		write(t, client, fmt.Sprintf("late-%d", i%3), 2)
	}
	remove(t, client, "s-3")
	bury(t, client, "s-4")
	want := tellAll(t, r.node)
	said := fmt.Sprintf(" position %d files", r.node.Head())
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) { // it is written soon
		text, err := os.ReadFile(filepath.Join(closed, "WITNESS"))
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("the witness does not say %q: %v", said, err)
		}
		if strings.Contains(string(text), said) {
			break
		}
	}
	if err := os.CopyFS(killed, os.DirFS(closed)); err != nil {
		t.Fatal(err)
	}
	r.stop()
	for _, dir := range []string{closed, killed} {
		if _, err := esdbnode.Check(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
	}
	return want
}

// tellAll is what a node says is in its log.
func tellAll(t *testing.T, n *esdbnode.Node) (all []string) {
	t.Helper()
	for e, err := range n.Scan(t.Context(), 0, "") {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, fingerprint(e.Position, e.Stream, e.Number, e.ID[:], e.Data))
	}
	return all
}

func fingerprint(position uint64, stream string, number uint64, id []byte, data string) string {
	return fmt.Sprintf("%d %s@%d %x %x", position, stream, number, id, data)
}

// flipAndOpen flips a bit in a copy of a log. It tells whether Check says so, and
// whether a node opens the copy.
func flipAndOpen(t *testing.T, whole, name string, at int64, bit int, want []string) (found, opened bool) {
	t.Helper()
	place := fmt.Sprintf("%s byte %d bit %d", name, at, bit)
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	text[at] ^= 1 << bit
	if err = os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
		t.Fatal(err)
	}
	_, said := esdbnode.Check(t.Context(), dir)
	node, err := esdbnode.Open(esdbnode.Options{Dir: dir})
	if err != nil {
		if said == nil && !strings.HasPrefix(name, "OPTIONS") {
			t.Errorf("%s: Check says nothing, and it cannot be opened: %v", place, err)
		}
		return said != nil, false
	}
	same := servesOnly(t, place, node, want)
	if said == nil && !same {
		t.Errorf("%s: Check says nothing, and the log is not what it was", place)
	}
	return said != nil, true
}

// servesOnly wants each read to give what was written and all of it, or an error;
// it tells whether there was none.
func servesOnly(t *testing.T, place string, node *esdbnode.Node, want []string) (all bool) {
	t.Helper()
	r := serve(t, node)
	defer r.stop()
	stub := stubs(t, r.uri)
	all = true
	streams := map[string][]string{}
	for _, w := range want {
		stream := strings.Fields(w)[1]
		stream = stream[:strings.LastIndex(stream, "@")]
		streams[stream] = append(streams[stream], w)
	}
	delete(streams, "s-3")
	delete(streams, "s-4")
	delete(streams, "$$s-3")
	streams["$all"] = want
	for stream, want := range streams {
		got, err := contents(t, stub, stream)
		if err != nil {
			if c := status.Code(err); c != codes.DataLoss {
				t.Errorf("%s: %s: %v", place, stream, err)
			}
			all = false
		} else if len(got) != len(want) {
			t.Errorf("%s: %s has %d events, want %d", place, stream, len(got), len(want))
		}
		for i := range got {
			if i >= len(want) || got[i] != want[i] {
				t.Errorf("%s: event %d of %s is %.80s", place, i, stream, got[i])
				break
			}
		}
	}
	return all
}

// contents reads a stream, or $all, to its end or to what is wrong with it.
func contents(t *testing.T, stub streams.StreamsClient, stream string) (got []string, err error) {
	t.Helper()
	options := &streams.ReadReq_Options{
		CountOption:  &streams.ReadReq_Options_Count{Count: math.MaxInt64},
		UuidOption:   &streams.ReadReq_Options_UUIDOption{Content: &streams.ReadReq_Options_UUIDOption_String_{String_: &shared.Empty{}}},
		FilterOption: &streams.ReadReq_Options_NoFilter{NoFilter: &shared.Empty{}},
	}
	if stream == "$all" {
		options.StreamOption = &streams.ReadReq_Options_All{All: &streams.ReadReq_Options_AllOptions{
			AllOption: &streams.ReadReq_Options_AllOptions_Start{Start: &shared.Empty{}},
		}}
	} else {
		options.StreamOption = &streams.ReadReq_Options_Stream{Stream: &streams.ReadReq_Options_StreamOptions{
			StreamIdentifier: named(stream), RevisionOption: &streams.ReadReq_Options_StreamOptions_Start{Start: &shared.Empty{}},
		}}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	call, err := stub.Read(ctx, &streams.ReadReq{Options: options})
	if err != nil {
		return nil, err
	}
	for {
		m, err := call.Recv()
		if errors.Is(err, io.EOF) {
			return got, nil
		}
		if err != nil {
			return got, err
		}
		e := m.GetEvent().GetEvent()
		if e == nil {
			continue
		}
		id, err := uuid.Parse(e.GetId().GetString_())
		if err != nil {
			return got, err
		}
		got = append(got, fingerprint(e.GetCommitPosition(), string(e.GetStreamIdentifier().GetStreamName()), e.GetStreamRevision(), id[:], string(e.GetData())))
	}
}

// TestWhoRemovesTheWitnessOpensWhatIsThere puts an old log under a newer statement,
// as a restore of some of the files does.
func TestWhoRemovesTheWitnessOpensWhatIsThere(t *testing.T) {
	dir, old := t.TempDir(), t.TempDir()
	r := start(t, esdbnode.Options{Dir: dir})
	write(t, dial(t, r.uri), "s", 3)
	r.stop()
	if err := os.CopyFS(old, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	r = start(t, esdbnode.Options{Dir: dir})
	write(t, dial(t, r.uri), "t", 3)
	r.stop()
	witness := filepath.Join(old, "WITNESS")
	newer, err := os.ReadFile(filepath.Join(dir, "WITNESS"))
	if err == nil {
		err = os.WriteFile(witness, newer, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err = esdbnode.Open(esdbnode.Options{Dir: old}); err == nil || !strings.Contains(err.Error(), "without its WITNESS") {
		t.Fatalf("opened under the newer statement: %v", err)
	}
	if err = os.Remove(witness); err != nil {
		t.Fatal(err)
	}
	r = start(t, esdbnode.Options{Dir: old})
	defer r.stop()
	if n := r.node.Head(); n != 3 {
		t.Errorf("it has %d events", n)
	}
	if _, err = os.Stat(witness); err != nil {
		t.Error(err)
	}
}
