package seen_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"cartwright/domain/seen"
)

func TestKeysAreRememberedWithTheirAmount(t *testing.T) {
	var m seen.Memory
	if _, found := m.Find("a"); found {
		t.Error("an empty memory knows something")
	}
	m.Put(3, "a", "bc")
	m.Put(0, "nothing")
	m.Put(-7, "a", "bc", "")
	for _, tt := range []struct {
		key   []string
		want  int64
		found bool
	}{
		{[]string{"a", "bc"}, 3, true},
		{[]string{"nothing"}, 0, true},
		{[]string{"a", "bc", ""}, -7, true},
		{[]string{"ab", "c"}, 0, false},
		{[]string{"abc"}, 0, false},
		{nil, 0, false},
	} {
		if got, found := m.Find(tt.key...); got != tt.want || found != tt.found {
			t.Errorf("%q: got %d, %v; want %d, %v", tt.key, got, found, tt.want, tt.found)
		}
	}
	if m.Count != 3 {
		t.Errorf("counted %d keys, put 3", m.Count)
	}
}

func TestWhatIsForgotten(t *testing.T) {
	var m seen.Memory
	const step, keep = 10, 20
	m.Advance(1000, step, keep)
	m.Put(1, "early")
	m.Advance(1009, step, keep) // the page is not old enough yet
	m.Put(2, "late")
	if len(m.Sealed) != 0 {
		t.Fatal("a page was sealed before its time")
	}
	m.Advance(1010, step, keep)
	m.Put(3, "next")
	m.Advance(5, step, keep)
	m.Advance(1029, step, keep)
	if amount, found := m.Find("early"); !found || amount != 1 {
		t.Fatal("forgotten before its time")
	}
	if len(m.Sealed) != 2 {
		t.Fatalf("%d pages are sealed, want 2", len(m.Sealed))
	}
	m.Advance(1039, step, keep)
	for key, want := range map[string]bool{"early": false, "late": false, "next": true} {
		if _, found := m.Find(key); found != want {
			t.Errorf("%s: remembered is %v, want %v", key, found, want)
		}
	}
	m.Advance(1049, step, keep)
	if len(m.Sealed) != 0 || !m.Newest.IsZero() {
		t.Errorf("something is left: %+v", m)
	}
}

func TestAPageIsForgottenToTheTick(t *testing.T) {
	var m seen.Memory
	m.Put(1, "a")
	m.Advance(10, 10, 20) // sealed at 10
	before := m.Clone()
	before.Advance(29, 10, 20)
	if _, found := before.Find("a"); !found {
		t.Error("forgotten a tick early")
	}
	m.Advance(30, 10, 20)
	if _, found := m.Find("a"); found {
		t.Error("still remembered when its time was up")
	}
}

func TestACloneIsItsOwn(t *testing.T) {
	var m seen.Memory
	m.Put(1, "sealed")
	m.Advance(10, 10, 20)
	m.Put(2, "newest")
	c := m.Clone()
	if diff := cmp.Diff(m, c); diff != "" {
		t.Fatalf("a clone differs (-want +got):\n%s", diff)
	}
	c.Put(3, "of the clone")
	c.Advance(40, 10, 20)
	for key, want := range map[string]bool{"sealed": true, "newest": true, "of the clone": false} {
		if _, found := m.Find(key); found != want {
			t.Errorf("%s: the original has it is %v, want %v", key, found, want)
		}
	}
}

func TestAMemoryComesBackFromJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var m seen.Memory
		for range rapid.IntRange(0, 20).Draw(t, "steps") {
			m.Put(rapid.Int64().Draw(t, "amount"), rapid.String().Draw(t, "key"))
			m.Advance(rapid.Int64Range(0, 100).Draw(t, "now"), 5, 50)
		}
		text, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		var back seen.Memory
		if err := json.Unmarshal(text, &back); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(m, back); diff != "" {
			t.Fatalf("came back otherwise (-want +got):\n%s", diff)
		}
		if again, err := json.Marshal(back); err != nil || string(again) != string(text) {
			t.Fatalf("equal memories have different JSON: %s and %s (%v)", text, again, err)
		}
	})
}

// What has come back goes on like what never went, and both like a map: keys are
// found, put and put anew, sealed, forgotten and written again the same way,
// however many there are.
func TestAMemoryIsLikeAMap(t *testing.T) {
	type put struct{ amount, at int64 }
	rapid.Check(t, func(t *rapid.T) {
		var m, back seen.Memory
		want, sealed := map[string]put{}, map[int64]int64{} // by page: when it was sealed
		page, now := int64(0), int64(0)
		for i := range rapid.IntRange(1, 12).Draw(t, "steps") {
			from, n := rapid.IntRange(0, 3000).Draw(t, "from"), rapid.SampledFrom([]int{1, 3, 255, 256, 257, 700}).Draw(t, "keys")
			for k := from; k < from+n; k++ {
				key, amount := strconv.Itoa(k), int64(i*10_000+k)
				m.Put(amount, key)
				back.Put(amount, key)
				want[key] = put{amount, page}
			}
			now += rapid.Int64Range(0, 30).Draw(t, "later")
			if now-m.Since >= 10 {
				sealed[page] = now
				page++
			}
			m.Advance(now, 10, 30)
			back.Advance(now, 10, 30)
			clone := back.Clone()
			clone.Put(-1, "of the clone")
			twin := back.Clone()
			twin.Put(-1, strconv.Itoa(from)) // which the original has in a run, or in its map
			if got, found := back.Find(strconv.Itoa(from)); m.Newest.Len() > 0 && (!found || got != want[strconv.Itoa(from)].amount) {
				t.Fatalf("what a clone put anew is %d, %v in the original", got, found)
			}
			if rapid.Bool().Draw(t, "through JSON") {
				text, err := json.Marshal(back)
				if err == nil {
					back = seen.Memory{}
					err = json.Unmarshal(text, &back)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			for k := i % 7; k < 3800; k += 7 {
				key := strconv.Itoa(k)
				w, known := want[key]
				if at, over := sealed[w.at]; over && m.Since-at >= 30 {
					known = false // an older page may have had it: no longer than this one
				}
				for name, other := range map[string]*seen.Memory{"what never went": &m, "what came back": &back, "a clone": &clone} {
					if got, found := other.Find(key); found != known || found && got != w.amount {
						t.Fatalf("%s: %s has %d, %v, not %d, %v", key, name, got, found, w.amount, known)
					}
				}
			}
			if _, found := back.Find("of the clone"); found {
				t.Fatal("a clone's key is in the original")
			}
			if diff := cmp.Diff(m, back); diff != "" {
				t.Fatalf("what never went (-) and what came back (+) differ:\n%s", diff)
			}
		}
	})
}

func TestRunsAreFew(t *testing.T) {
	var m seen.Memory
	for i := range 40_000 {
		m.Put(1, strconv.Itoa(i))
		if n := seen.Runs(m); n > 8 { // of 256 keys, of 512, and so on
			t.Fatalf("%d keys are in %d runs", i+1, n)
		}
	}
}

// BenchmarkPut is what a key costs, by how many there are, with the memory that it takes.
func BenchmarkPut(b *testing.B) {
	for _, n := range []int{1000, 100_000} {
		b.Run(fmt.Sprintf("keys=%d", n), func(b *testing.B) {
			var before, after runtime.MemStats
			for b.Loop() {
				runtime.GC()
				runtime.ReadMemStats(&before)
				var m seen.Memory
				begun := time.Now()
				for i := range n {
					m.Put(1, strconv.Itoa(i))
				}
				took := time.Since(begun)
				runtime.GC()
				runtime.ReadMemStats(&after)
				b.ReportMetric(float64(took.Nanoseconds())/float64(n), "ns/key")
				b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(n), "bytes/key")
				runtime.KeepAlive(&m)
			}
		})
	}
}

func TestADamagedPageIsRefused(t *testing.T) {
	for name, text := range map[string]string{
		"no string":        `{"newest":7}`,
		"no base64":        `{"newest":"%"}`,
		"half of a record": `{"newest":"AAAA"}`,
		"a key twice":      `{"newest":"` + base64.StdEncoding.EncodeToString(make([]byte, 2*24)) + `"}`,
		"out of order":     `{"newest":"` + base64.StdEncoding.EncodeToString(append(bytes.Repeat([]byte{1}, 24), make([]byte, 24)...)) + `"}`,
	} {
		var m seen.Memory
		if err := json.Unmarshal([]byte(text), &m); err == nil || !strings.Contains(err.Error(), "page of keys") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func BenchmarkFind(b *testing.B) {
	var m seen.Memory
	for i := range int64(100_000) {
		m.Put(i, "attempt", string(rune(i)))
		m.Advance(i, 30_000, math.MaxInt64)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, found := m.Find("attempt", "0000063158400000000", "unknown"); found {
			b.Fatal("found what was never put")
		}
	}
}
