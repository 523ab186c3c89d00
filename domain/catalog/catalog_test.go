package catalog_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"cartwright/domain"
	"cartwright/domain/catalog"
	"cartwright/domain/domaintest"
	stored "cartwright/domain/event"
)

type (
	offer   = catalog.Offer
	command = catalog.Command
	event   = catalog.Event
)

func given(tb testing.TB, past ...event) *domaintest.Spec[offer, command, event] {
	tb.Helper()
	return domaintest.Given(tb, catalog.Decider, past...)
}

var lamp = catalog.Snapshot{
	SKU: "lamp-1", Seller: "s1", Title: "灯 <b>& lamp", Specs: map[string]string{"watts": "5", "colour": "red"},
	Currency: "BRL", UnitPrice: 64900, Freight: 1200,
}

func with(change func(*catalog.Snapshot)) catalog.Snapshot {
	s := lamp
	s.Specs = maps.Clone(lamp.Specs)
	change(&s)
	return s
}

func described(tb testing.TB, s catalog.Snapshot) catalog.Described {
	tb.Helper()
	digest, err := catalog.Digest(s)
	if err != nil {
		tb.Fatal(err)
	}
	return catalog.Described{Digest: digest, Snapshot: s}
}

func TestPublishing(t *testing.T) {
	first, cheaper := described(t, lamp), described(t, with(func(s *catalog.Snapshot) { s.UnitPrice = 100 }))
	onSale := func(d catalog.Described) catalog.Published { return catalog.Published{Digest: d.Digest, OnSale: true} }
	off := catalog.Published{Digest: first.Digest}

	for _, tt := range []struct {
		name string
		past []event
		c    catalog.Publish
		want []event
	}{
		{"a new offer is described and published", nil, catalog.Publish{Snapshot: lamp, OnSale: true}, []event{first, onSale(first)}},
		{"an offer may be published off sale", nil, catalog.Publish{Snapshot: lamp}, []event{first, off}},
		{"the same offer again changes nothing", []event{first, onSale(first)}, catalog.Publish{Snapshot: lamp, OnSale: true}, nil},
		{"an offer is taken off sale", []event{first, onSale(first)}, catalog.Publish{Snapshot: lamp}, []event{off}},
		{"another price is described", []event{first, onSale(first)}, catalog.Publish{Snapshot: cheaper.Snapshot, OnSale: true}, []event{cheaper, onSale(cheaper)}},
		{"an old price is not described again", []event{first, onSale(first), cheaper, onSale(cheaper)}, catalog.Publish{Snapshot: lamp, OnSale: true}, []event{onSale(first)}},
		{"what was described and not published is published", []event{first}, catalog.Publish{Snapshot: lamp, OnSale: true}, []event{onSale(first)}},
	} {
		t.Run(tt.name, func(t *testing.T) { given(t, tt.past...).When(tt.c).Then(tt.want...) })
	}
	t.Run("an offer keeps its seller", func(t *testing.T) {
		c := catalog.Publish{Snapshot: with(func(s *catalog.Snapshot) { s.Seller = "s2" })}
		given(t, first, onSale(first)).When(c).ThenRefused(domain.Conflict, "seller_fixed")
	})
	t.Run("an offer keeps its SKU", func(t *testing.T) {
		c := catalog.Publish{Snapshot: with(func(s *catalog.Snapshot) { s.SKU = "lamp-2" })}
		given(t, first, onSale(first)).When(c).ThenRefused(domain.Invalid, "bad_offer")
	})
	t.Run("the event shares nothing with its caller", func(t *testing.T) {
		mine := with(func(*catalog.Snapshot) {})
		events, err := catalog.Decider.Decide(offer{}, catalog.Publish{Snapshot: mine})
		if err != nil {
			t.Fatal(err)
		}
		mine.Specs["watts"] = "6"
		if diff := domaintest.Diff(event(first), events[0]); diff != "" {
			t.Fatalf("the event changed (-want +got):\n%s", diff)
		}
	})
	t.Run("the state is what was published last", func(t *testing.T) {
		got, err := catalog.Decider.Fold(offer{}, first, onSale(first), cheaper, onSale(cheaper), off)
		want := offer{
			Snapshot: lamp, Digest: first.Digest, Version: 3,
			Known: map[string]catalog.Snapshot{first.Digest: lamp, cheaper.Digest: cheaper.Snapshot},
		}
		if diff := domaintest.Diff(want, got); err != nil || diff != "" {
			t.Fatalf("%v (-want +got):\n%s", err, diff)
		}
	})
}

func specs(n, name, value int) map[string]string {
	m := map[string]string{}
	for i := range n {
		m[fmt.Sprintf("%03d", i)+strings.Repeat("ü", name-3)] = strings.Repeat("ü", value)
	}
	return m
}

func TestWhatCanBeOffered(t *testing.T) {
	for name, change := range map[string]func(*catalog.Snapshot){
		"a title of 300 letters":        func(s *catalog.Snapshot) { s.Title = strings.Repeat("灯", 300) },
		"a title of one":                func(s *catalog.Snapshot) { s.Title = "a" },
		"a gift":                        func(s *catalog.Snapshot) { s.UnitPrice, s.Freight = 0, 0 },
		"no specs":                      func(s *catalog.Snapshot) { s.Specs = nil },
		"50 specs of 200 letters":       func(s *catalog.Snapshot) { s.Specs = specs(50, 200, 200) },
		"a spec without a value":        func(s *catalog.Snapshot) { s.Specs = map[string]string{"used": ""} },
		"a seller called platform only": func(s *catalog.Snapshot) { s.Seller = "platform" },
	} {
		t.Run(name, func(t *testing.T) {
			s := with(change)
			d := described(t, s)
			given(t).When(catalog.Publish{Snapshot: s}).Then(d, catalog.Published{Digest: d.Digest})
		})
	}
	for name, tt := range map[string]struct {
		pointer string
		change  func(*catalog.Snapshot)
	}{
		"no title":                    {"/title", func(s *catalog.Snapshot) { s.Title = "" }},
		"a blank title":               {"/title", func(s *catalog.Snapshot) { s.Title = " \t" }},
		"a title of 301 letters":      {"/title", func(s *catalog.Snapshot) { s.Title = strings.Repeat("灯", 301) }},
		"a title that is not UTF-8":   {"/title", func(s *catalog.Snapshot) { s.Title = "\xff" }},
		"no seller":                   {"/seller", func(s *catalog.Snapshot) { s.Seller = "" }},
		"a seller with a slash":       {"/seller", func(s *catalog.Snapshot) { s.Seller = "a/b" }},
		"the platform as a seller":    {"/seller", func(s *catalog.Snapshot) { s.Seller = "platform.escrow.BRL" }},
		"no SKU":                      {"/sku", func(s *catalog.Snapshot) { s.SKU = "" }},
		"a SKU of 201 letters":        {"/sku", func(s *catalog.Snapshot) { s.SKU = strings.Repeat("a", 201) }},
		"a negative price":            {"/unit_price", func(s *catalog.Snapshot) { s.UnitPrice = -1 }},
		"negative freight":            {"/freight", func(s *catalog.Snapshot) { s.Freight = -1 }},
		"no currency":                 {"/currency", func(s *catalog.Snapshot) { s.Currency = "" }},
		"a currency that there isn't": {"/currency", func(s *catalog.Snapshot) { s.Currency = "ABC" }},
		"51 specs":                    {"/specs", func(s *catalog.Snapshot) { s.Specs = specs(51, 3, 1) }},
		"a spec's name of 201":        {"/specs", func(s *catalog.Snapshot) { s.Specs = specs(1, 201, 1) }},
		"a spec's value of 201":       {"/specs", func(s *catalog.Snapshot) { s.Specs = specs(1, 3, 201) }},
		"a spec without a name":       {"/specs", func(s *catalog.Snapshot) { s.Specs = map[string]string{"": "5"} }},
	} {
		t.Run(name+" is refused", func(t *testing.T) {
			_, err := catalog.Decider.Decide(offer{}, catalog.Publish{Snapshot: with(tt.change)})
			e, ok := errors.AsType[*domain.Error](err)
			if !ok || e.Code != domain.Invalid || e.Reason != "bad_offer" || len(e.Fields) != 1 || e.Fields[0].Pointer != tt.pointer {
				t.Fatalf("got %+v; want %s to be at fault", err, tt.pointer)
			}
			if e.Detail != e.Fields[0].Detail {
				t.Errorf("the detail %q does not say what the field says", e.Detail)
			}
		})
	}
	t.Run("all that is wrong is told at once", func(t *testing.T) {
		_, err := catalog.Decider.Decide(offer{}, catalog.Publish{Snapshot: catalog.Snapshot{UnitPrice: -1, Freight: -1}})
		if e, ok := errors.AsType[*domain.Error](err); !ok || len(e.Fields) != 6 {
			t.Fatalf("got %+v", err)
		}
	})
}

// The digest of a snapshot must never change: order lines carry it.
func TestADigestIsForEver(t *testing.T) {
	for _, tt := range []struct {
		s    catalog.Snapshot
		want string
	}{
		{lamp, "9e91bbe07238f77db9c792ebc8af6ff35b69076bc4297c2804fea14c6a72a215"},
		{catalog.Snapshot{}, "73f4a5955992849a07d60a61da6b8950e856b9d3ed57c8c70a2a583a49942fa0"},
	} {
		if got, err := catalog.Digest(tt.s); err != nil || got != tt.want {
			t.Errorf("got %s, %v; want %s", got, err, tt.want)
		}
	}
}

func TestHistoriesThatCannotHaveHappened(t *testing.T) {
	first := described(t, lamp)
	published := catalog.Published{Digest: first.Digest, OnSale: true}
	for name, past := range map[string][]event{
		"published and never described": {published},
		"published another":             {first, catalog.Published{Digest: strings.Repeat("0", 64)}},
		"described under another name":  {catalog.Described{Digest: strings.Repeat("0", 64), Snapshot: lamp}},
		"described twice":               {first, first},
		"described another SKU":         {first, published, described(t, with(func(s *catalog.Snapshot) { s.SKU = "lamp-2" }))},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := catalog.Decider.Fold(offer{}, past...)
			if e, ok := errors.AsType[*domain.ReplayError](err); !ok || e.At != len(past)-1 || domain.CodeOf(err) != "" {
				t.Fatalf("got %v; want the last of %d events refused, without a code", err, len(past))
			}
		})
	}
}

// Whatever is published: what is decided replays, also through the store's
// JSON, what is replayed is what was lived, and the seller never changes.
func TestDecisionsAlwaysReplay(t *testing.T) {
	registry, err := stored.NewRegistry(catalog.Types()...)
	if err != nil {
		t.Fatal(err)
	}
	text := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"a", "<", "\u2028", "\xff", "灯"}))
	publish := rapid.Custom(func(t *rapid.T) catalog.Publish {
		s := catalog.Snapshot{
			SKU: "sku", Seller: rapid.SampledFrom([]string{"s1", "s1", "s2"}).Draw(t, "seller"), Title: text.Draw(t, "title"),
			Currency: "BRL", UnitPrice: rapid.Int64Range(-1, 2).Draw(t, "price"),
		}
		if rapid.Bool().Draw(t, "specified") {
			s.Specs = rapid.MapOfN(text, text, 0, 3).Draw(t, "specs")
		}
		return catalog.Publish{Snapshot: s, OnSale: rapid.Bool().Draw(t, "on sale")}
	})
	rapid.Check(t, func(t *rapid.T) {
		var past []event
		live, replayed := offer{}, offer{}
		for range rapid.IntRange(1, 30).Draw(t, "length") {
			c := publish.Draw(t, "c")
			events, _ := catalog.Decider.Decide(live, c)
			kept, clone := catalog.Decider.Clone(live), catalog.Decider.Clone(live)
			seller := live.Snapshot.Seller
			if live, err = catalog.Decider.Fold(live, events...); err != nil {
				t.Fatalf("%#v: %v", c, err)
			}
			if seller != "" && seller != live.Snapshot.Seller {
				t.Fatalf("%s's offer became %s's", seller, live.Snapshot.Seller)
			}
			if diff := domaintest.Diff(kept, clone); diff != "" {
				t.Fatalf("the clone changed with the original (-want +got):\n%s", diff)
			}
			if twice, _ := catalog.Decider.Decide(live, c); len(twice) > 0 {
				t.Fatalf("%#v: published twice", c)
			}
			past = append(past, events...)
		}
		for _, e := range past {
			rec, err := registry.Encode(e)
			if err != nil {
				t.Fatal(err)
			}
			again, err := registry.Decode(rec)
			if err != nil {
				t.Fatal(err)
			}
			if replayed, err = catalog.Decider.Evolve(replayed, again.(event)); err != nil {
				t.Fatal(err)
			}
		}
		var snapshot offer
		if b, err := json.Marshal(live); err != nil || json.Unmarshal(b, &snapshot) != nil {
			t.Fatalf("no JSON of %+v: %v", live, err)
		}
		if diff := domaintest.Diff(live, replayed) + domaintest.Diff(live, snapshot); diff != "" {
			t.Fatalf("replayed otherwise than lived (-lived +replayed):\n%s", diff)
		}
	})
}
