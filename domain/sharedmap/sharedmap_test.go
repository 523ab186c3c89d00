package sharedmap_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"cartwright/domain/sharedmap"
)

// Any number of clones of clones, changed in any order, are each what a Go map
// is to which the same was done.
func TestClonesAreEachTheirOwn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type pair struct {
			shared sharedmap.Map[int, int]
			plain  map[int]int
		}
		pairs := []pair{{plain: map[int]int{}}}
		for step := range rapid.IntRange(0, 400).Draw(t, "steps") {
			p := &pairs[rapid.IntRange(0, len(pairs)-1).Draw(t, "which")]
			key := rapid.IntRange(0, 120).Draw(t, "key")
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0:
				pairs = append(pairs, pair{p.shared.Clone(), maps.Clone(p.plain)})
			case 1, 2, 3:
				p.shared.Delete(key)
				delete(p.plain, key)
			default:
				p.shared.Put(key, step)
				p.plain[key] = step
			}
		}
		for i, p := range pairs {
			if diff := cmp.Diff(p.plain, maps.Collect(p.shared.All())); diff != "" || p.shared.Len() != len(p.plain) {
				t.Fatalf("map %d of %d keys (-want +got):\n%s", i, p.shared.Len(), diff)
			}
			for key := range 120 {
				want, known := p.plain[key]
				if got, found := p.shared.Get(key); got != want || found != known {
					t.Fatalf("map %d: key %d is %d, %v; want %d, %v", i, key, got, found, want, known)
				}
			}
		}
	})
}

func TestAMapIsWrittenAsAGoMapIs(t *testing.T) {
	plain := map[string]int{"b": 2, "a": 1, "c<": 3}
	m := sharedmap.Of(plain)
	got, err := json.Marshal(m)
	want, wantErr := json.Marshal(plain)
	if err != nil || wantErr != nil || string(got) != string(want) {
		t.Fatalf("got %s, %v; want %s, %v", got, err, want, wantErr)
	}
	var back sharedmap.Map[string, int]
	if err = json.Unmarshal(got, &back); err != nil || !back.Equal(m) || back.Len() != 3 {
		t.Fatalf("came back as %v, %v", back, err)
	}
	if err = json.Unmarshal([]byte(`[]`), &back); err == nil {
		t.Error("a list was taken")
	}
	none, err := json.Marshal(struct {
		M sharedmap.Map[string, int] `json:"m,omitzero"`
	}{})
	if err != nil || string(none) != "{}" {
		t.Errorf("an empty one is written as %s, %v", none, err)
	}
}

func TestMapsThatDifferAreNotEqual(t *testing.T) {
	a := sharedmap.Of(map[string]int{"a": 1})
	b := a.Clone()
	if !a.Equal(b) {
		t.Error("a clone differs")
	}
	b.Put("a", 2)
	if a.Equal(b) {
		t.Error("another value is the same")
	}
}

func TestReadingStopsWhenNobodyTakesMore(t *testing.T) {
	var m sharedmap.Map[int, int]
	for i := range 1000 {
		m.Put(i, i)
	}
	n := 0
	for range m.All() {
		if n++; n == 100 {
			break
		}
	}
	if n != 100 {
		t.Errorf("%d keys", n)
	}
}

// BenchmarkPut adds a key and takes another out, of a map that nobody shares,
// and of one that was cloned just before.
func BenchmarkPut(b *testing.B) {
	for _, cloned := range []bool{false, true} {
		for _, n := range []int{10, 1000, 100_000} {
			b.Run(fmt.Sprintf("cloned=%v/keys=%d", cloned, n), func(b *testing.B) {
				var m sharedmap.Map[int, int]
				for i := range n {
					m.Put(i, i)
				}
				b.ReportAllocs()
				for i := n; b.Loop(); i++ {
					if cloned {
						m = m.Clone()
					}
					m.Put(i, i)
					m.Delete(i - n)
				}
			})
		}
	}
}

func BenchmarkGet(b *testing.B) {
	for _, n := range []int{10, 1000, 100_000} {
		b.Run(fmt.Sprintf("keys=%d", n), func(b *testing.B) {
			var m sharedmap.Map[int, int]
			for i := range n {
				m.Put(i, i)
			}
			for i := 0; b.Loop(); i++ {
				if _, found := m.Get(i % n); !found {
					b.Fatal("lost")
				}
			}
		})
	}
}

// BenchmarkMiss looks for the key of an order that is new, as every hold does, in
// one of a thousand maps, none of which is in the processor's cache.
func BenchmarkMiss(b *testing.B) {
	const stocks = 1000
	var all [stocks]sharedmap.Map[string, [14]uint64]
	order := func(n int) string { return fmt.Sprintf("%019d", n) }
	for n := range stocks * 60 {
		all[n%stocks].Put(order(n), [14]uint64{})
	}
	absent := order(stocks * 60)
	for i := 0; b.Loop(); i++ {
		if _, found := all[i*7919%stocks].Get(absent); found {
			b.Fatal("found what is not there")
		}
	}
}
