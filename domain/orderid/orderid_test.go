package orderid_test

import (
	"cmp"
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"cartwright/domain"
	"cartwright/domain/domaintest"
	"cartwright/domain/orderid"
)

const (
	buyer = "1000042"
	order = "0599616000001000042"
)

var given = domaintest.Given[orderid.Issuance, orderid.Command, orderid.Event]

func TestAnID(t *testing.T) {
	at := time.Date(2026, 11, 21, 8, 30, 15, 123_456_789, time.FixedZone("", 8*3600))
	id, err := orderid.Make(at, 7, "buyer-1004")
	if err != nil {
		t.Fatal(err)
	}
	const bucket = 709644 // by sha256sum and a calculator
	milli := at.Sub(time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)).Milliseconds()
	if got := id.Bucket(); got != bucket {
		t.Errorf("bucket %d, want %d", got, bucket)
	}
	if want := at.Truncate(time.Millisecond); !id.Time().Equal(want) || id.Time().Location() != time.UTC {
		t.Errorf("time %s, want %s in UTC", id.Time(), want)
	}
	if want := "0" + strconv.FormatInt(milli, 10) + "7"; string(id[:13]) != want {
		t.Errorf("got %s, want it to begin with %s", id, want)
	}
	if again, err := orderid.Parse(string(id)); err != nil || again != id {
		t.Errorf("parsed %s, %v; want %s", again, err, id)
	}
}

func TestBuckets(t *testing.T) {
	for name, want := range map[string]int{
		"1000042":               42,
		"42":                    42,
		"0":                     0,
		"999999":                999_999,
		"1999999":               999_999,
		"123456789012345678901": 678_901,
		"":                      0xe3b0c44298fc1c14 % 1_000_000,
		"abc":                   0xba7816bf8f01cfea % 1_000_000,
		"12a":                   271486,
	} {
		if got := orderid.Bucket(name); got != want {
			t.Errorf("bucket of %q: %d, want %d", name, got, want)
		}
	}
}

func TestTheLastSixDigitsAreTheBuyersBucket(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		buyer := rapid.OneOf(rapid.StringMatching(`[0-9]{1,20}`), rapid.StringMatching(`[A-Za-z0-9._:-]{1,64}`)).Draw(t, "buyer")
		id, err := orderid.Make(time.UnixMilli(rapid.Int64Range(1_704_067_200_000, 2_626_000_000_000).Draw(t, "ms")), 3, buyer)
		if err != nil {
			t.Fatal(err)
		}
		number, err := strconv.ParseInt(string(id), 10, 64)
		if err != nil {
			t.Fatalf("%s does not fit an int64: %v", id, err)
		}
		if b := orderid.Bucket(buyer); b < 0 || b >= orderid.Buckets || int64(b) != number%orderid.Buckets || b != id.Bucket() {
			t.Fatalf("bucket of %s is %d, of %s %d", buyer, b, id, id.Bucket())
		}
		if err = orderid.Check(string(id), buyer); err != nil {
			t.Fatal(err)
		}
	})
}

func TestAnIDSortsByTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ms, seq := rapid.Int64Range(1_704_067_200_000, 2_626_000_000_000), rapid.IntRange(0, 9)
		a, b := ms.Draw(t, "a"), ms.Draw(t, "b")
		seqA, seqB := seq.Draw(t, "a's sequence"), seq.Draw(t, "b's sequence")
		idA, errA := orderid.Make(time.UnixMilli(a), seqA, "1")
		idB, errB := orderid.Make(time.UnixMilli(b), seqB, "1")
		if errA != nil || errB != nil {
			t.Fatal(errA, errB)
		}
		if want := cmp.Or(cmp.Compare(a, b), cmp.Compare(seqA, seqB)); strings.Compare(string(idA), string(idB)) != want {
			t.Fatalf("%s and %s do not sort as their times %d.%d and %d.%d", idA, idB, a, seqA, b, seqB)
		}
	})
}

func TestTheBoundsOfTime(t *testing.T) {
	first, last := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC), time.UnixMilli(1_704_067_200_000+922_337_203_684)
	if id, err := orderid.Make(first, 0, "0"); err != nil || id != "0000000000000000000" || !id.Time().Equal(first) {
		t.Errorf("first: got %q, %v", id, err)
	}
	id, err := orderid.Make(last, 9, "999999")
	if err != nil || id != "9223372036849999999" || !id.Time().Equal(last) || id.Bucket() != 999_999 {
		t.Errorf("last: got %q, %v", id, err)
	}
	if _, err = orderid.Parse(string(id)); err != nil {
		t.Error(err)
	}
	for name, draw := range map[string]func() (orderid.ID, error){
		"before 2024":          func() (orderid.ID, error) { return orderid.Make(first.Add(-time.Millisecond), 0, "0") },
		"after 2053":           func() (orderid.ID, error) { return orderid.Make(last.Add(time.Millisecond), 0, "0") },
		"a sequence of ten":    func() (orderid.ID, error) { return orderid.Make(first, 10, "0") },
		"a sequence below nil": func() (orderid.ID, error) { return orderid.Make(first, -1, "0") },
	} {
		if id, err := draw(); err == nil || id != "" {
			t.Errorf("%s: got %q", name, id)
		}
	}
}

func TestWhatIsNoID(t *testing.T) {
	for _, s := range []string{
		"", "1", "059961600000100004", "05996160000010000420", "059961600000100004x", "-599616000001000042",
		"+599616000001000042", "0599616000001 000042"[:19], "٠٥٩٩٦١٦٠٠٠", "9223372036850000000", "9999999999999999999", "05996160000010000/2", "05996160000010000:2",
	} {
		id, err := orderid.Parse(s)
		if domain.CodeOf(err) != domain.Invalid || domain.ReasonOf(err) != "invalid_order_id" || id != "" {
			t.Errorf("%q: got %q, %v", s, id, err)
		}
		if err = orderid.Check(s, buyer); domain.ReasonOf(err) != "invalid_order_id" {
			t.Errorf("%q of a buyer: got %v", s, err)
		}
		if bare := orderid.ID(s); s != "9223372036850000000" && s != "9999999999999999999" && (!bare.Time().IsZero() || bare.Bucket() != 0) {
			t.Errorf("%q has time %s and bucket %d", s, bare.Time(), bare.Bucket())
		}
	}
}

func TestAnIDBelongsToItsBuyer(t *testing.T) {
	if err := orderid.Check(order, buyer); err != nil {
		t.Error(err)
	}
	err := orderid.Check(order, "1000043")
	if domain.CodeOf(err) != domain.Invalid || domain.ReasonOf(err) != "wrong_bucket" {
		t.Errorf("another buyer's: got %v", err)
	}
}

func TestIssuing(t *testing.T) {
	issued := orderid.Issued{Order: order, Buyer: buyer}
	t.Run("an id is issued", func(t *testing.T) {
		given(t, orderid.Decider).When(orderid.Issue{Order: order, Buyer: buyer}).Then(issued)
	})
	t.Run("once issued, another changes nothing", func(t *testing.T) {
		given(t, orderid.Decider, issued).When(orderid.Issue{Order: "0599616000009000042", Buyer: buyer}).Then()
	})
	t.Run("it is an order id", func(t *testing.T) {
		given(t, orderid.Decider).When(orderid.Issue{Order: "17", Buyer: buyer}).ThenRefused(domain.Invalid, "invalid_order_id")
	})
	t.Run("it is the buyer's", func(t *testing.T) {
		given(t, orderid.Decider).When(orderid.Issue{Order: order, Buyer: "7"}).ThenRefused(domain.Invalid, "wrong_bucket")
	})
	t.Run("the buyer has a name", func(t *testing.T) {
		given(t, orderid.Decider).When(orderid.Issue{Order: order, Buyer: "a b"}).ThenRefused(domain.Invalid, "invalid_id")
	})
	t.Run("what is remembered is the id and the buyer, also as JSON", func(t *testing.T) {
		state, err := orderid.Decider.Fold(orderid.Issuance{}, issued)
		if err != nil || state != (orderid.Issuance{Order: order, Buyer: buyer}) {
			t.Fatalf("got %+v, %v", state, err)
		}
		raw, err := json.Marshal(state)
		if want := `{"order":"` + order + `","buyer":"` + buyer + `"}`; err != nil || string(raw) != want {
			t.Fatalf("got %s, %v; want %s", raw, err, want)
		}
	})
	t.Run("a second issue can't have happened, nor an empty one", func(t *testing.T) {
		for _, past := range [][]orderid.Event{{issued, issued}, {orderid.Issued{}}, {nil}} {
			if _, err := orderid.Decider.Fold(orderid.Issuance{}, past...); err == nil {
				t.Errorf("%v replays", past)
			}
		}
	})
	t.Run("no command is a fault of ours", func(t *testing.T) {
		if events, err := orderid.Decider.Decide(orderid.Issuance{}, nil); err == nil || domain.CodeOf(err) != "" || events != nil {
			t.Errorf("got %v, %v", events, err)
		}
	})
}
