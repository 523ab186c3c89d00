package personal_test

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"cartwright/domain"
	"cartwright/domain/domaintest"
	"cartwright/domain/personal"
)

var (
	given = domaintest.Given[personal.Key, personal.Command, personal.Event]
	key   = bytes.Repeat([]byte{7}, personal.KeySize)
	other = bytes.Repeat([]byte{8}, personal.KeySize)
	home  = personal.Address{
		Name: "王小明", Phone: "+86 10 5555 0100", Line1: "朝阳路 1", Line2: "2 单元", City: "北京",
		Region: "北京市", PostalCode: "100020", Country: "CN",
	}
)

func sealed(tb testing.TB) []byte {
	tb.Helper()
	box, err := personal.Seal(key, rand.Reader, "b1", home)
	if err != nil {
		tb.Fatal(err)
	}
	return box
}

func TestAnAddressOpensForItsBuyerOnly(t *testing.T) {
	box := sealed(t)
	if got, err := personal.Open(key, "b1", box); err != nil || got != home {
		t.Fatalf("got %+v, %v", got, err)
	}
	for name, open := range map[string]func() (personal.Address, error){
		"another buyer": func() (personal.Address, error) { return personal.Open(key, "b2", box) },
		"another key":   func() (personal.Address, error) { return personal.Open(other, "b1", box) },
		"no box":        func() (personal.Address, error) { return personal.Open(key, "b1", nil) },
		"a stump":       func() (personal.Address, error) { return personal.Open(key, "b1", box[:12]) },
		"a bare nonce":  func() (personal.Address, error) { return personal.Open(key, "b1", box[:13]) },
	} {
		if got, err := open(); !errors.Is(err, personal.ErrUnreadable) || got != (personal.Address{}) {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
	}
}

func TestNoChangedByteOpens(t *testing.T) {
	box := sealed(t)
	for i := range box {
		changed := slices.Clone(box)
		changed[i] ^= 1
		if _, err := personal.Open(key, "b1", changed); !errors.Is(err, personal.ErrUnreadable) {
			t.Fatalf("byte %d changed: got %v", i, err)
		}
	}
}

func TestTheFormatStandsFirstAndNothingShowsThrough(t *testing.T) {
	box, again := sealed(t), sealed(t)
	if box[0] != 1 {
		t.Errorf("format %d, want 1", box[0])
	}
	if bytes.Contains(box, []byte(home.Name)) || bytes.Contains(box, []byte("name")) {
		t.Error("the address can be read in what is sealed")
	}
	if bytes.Equal(box, again) {
		t.Error("the same address sealed twice looks the same")
	}
}

func TestEveryAddressComesBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := personal.Address{Name: rapid.String().Draw(t, "name"), City: rapid.String().Draw(t, "city")}
		buyer := rapid.StringMatching(`[A-Za-z0-9._:-]{1,64}`).Draw(t, "buyer")
		box, err := personal.Seal(key, rand.Reader, buyer, a)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := personal.Open(key, buyer, box); err != nil || got != a {
			t.Fatalf("got %+v, %v; want %+v", got, err, a)
		}
	})
}

func TestKeysAreWrapped(t *testing.T) {
	mine, err := personal.NewKey(rand.Reader)
	if err != nil || len(mine) != personal.KeySize {
		t.Fatalf("got %x, %v", mine, err)
	}
	wrapped, err := personal.Wrap(key, rand.Reader, "b1", mine)
	if err != nil || bytes.Contains(wrapped, mine) {
		t.Fatalf("got %x, %v", wrapped, err)
	}
	if got, err := personal.Unwrap(key, "b1", wrapped); err != nil || !bytes.Equal(got, mine) {
		t.Errorf("unwrapped %x, %v; want %x", got, err, mine)
	}
	if _, err := personal.Unwrap(key, "b2", wrapped); !errors.Is(err, personal.ErrUnreadable) {
		t.Errorf("for another buyer: %v", err)
	}
	if _, err := personal.Unwrap(other, "b1", wrapped); !errors.Is(err, personal.ErrUnreadable) {
		t.Errorf("under another master key: %v", err)
	}
	if _, err := personal.Unwrap(key, "b1", sealed(t)); !errors.Is(err, personal.ErrUnreadable) {
		t.Errorf("an address passes for a key: %v", err)
	}
}

func TestKeysHaveOneSize(t *testing.T) {
	for _, size := range []int{0, 16, 31, 33} {
		short := make([]byte, size)
		if _, err := personal.Seal(short, rand.Reader, "b1", home); err == nil {
			t.Errorf("a key of %d bytes seals", size)
		}
		if _, err := personal.Open(short, "b1", sealed(t)); err == nil || errors.Is(err, personal.ErrUnreadable) {
			t.Errorf("a key of %d bytes: got %v", size, err)
		}
	}
}

func TestWithoutChanceNothingIsSealed(t *testing.T) {
	dry := iotest.ErrReader(errors.New("dry"))
	if _, err := personal.NewKey(dry); err == nil {
		t.Error("a key was drawn")
	}
	if _, err := personal.Seal(key, dry, "b1", home); err == nil {
		t.Error("an address was sealed")
	}
	if _, err := personal.Wrap(key, bytes.NewReader(make([]byte, 11)), "b1", key); err == nil {
		t.Error("a key was wrapped with half a nonce")
	}
}

func TestMasterKeysHaveNames(t *testing.T) {
	if a, b := personal.MasterID(key), personal.MasterID(other); a == b || len(a) != 16 || a != personal.MasterID(key) {
		t.Errorf("got %s and %s", a, b)
	}
}

func TestAddressesAreChecked(t *testing.T) {
	if err := home.Check("/address"); err != nil {
		t.Fatal(err)
	}
	bare := personal.Address{Name: "n", Line1: "l", City: "c", Country: "BR"}
	if err := bare.Check("/address"); err != nil {
		t.Fatal(err)
	}
	for field, limit := range map[string]int{
		"name": 100, "phone": 32, "line1": 200, "line2": 200, "city": 100, "region": 100, "postal_code": 20, "country": 64,
	} {
		if err := with(t, field, strings.Repeat("界", limit)).Check("/address"); err != nil {
			t.Errorf("%s of %d characters: %v", field, limit, err)
		}
		refusedAt(t, with(t, field, strings.Repeat("x", limit+1)), "/address/"+field)
	}
	for _, field := range []string{"name", "line1", "city", "country"} {
		refusedAt(t, with(t, field, ""), "/address/"+field)
	}
	for _, field := range []string{"phone", "line2", "region", "postal_code"} {
		if err := with(t, field, "").Check("/address"); err != nil {
			t.Errorf("no %s: %v", field, err)
		}
	}
	refusedAt(t, personal.Address{City: "c", Phone: "\x00"}, "/address/name", "/address/phone", "/address/line1", "/address/country")
}

// with is home, but for one field.
func with(tb testing.TB, field, value string) personal.Address {
	tb.Helper()
	raw, err := json.Marshal(map[string]string{field: value})
	if err != nil {
		tb.Fatal(err)
	}
	a := home
	if err = json.Unmarshal(raw, &a); err != nil {
		tb.Fatal(err)
	}
	return a
}

func refusedAt(tb testing.TB, a personal.Address, pointers ...string) {
	tb.Helper()
	e, ok := errors.AsType[*domain.Error](a.Check("/address"))
	if !ok || e.Code != domain.Invalid || e.Reason != "invalid_address" {
		tb.Errorf("%v: got %v", pointers, e)
		return
	}
	var got []string
	for _, f := range e.Fields {
		got = append(got, f.Pointer)
	}
	if diff := cmp.Diff(pointers, got); diff != "" {
		tb.Errorf("fields (-want +got):\n%s", diff)
	}
}

func TestABuyersKey(t *testing.T) {
	created := personal.KeyCreated{Wrapped: []byte{1, 2, 3}, Master: "m1"}
	t.Run("a key is created", func(t *testing.T) {
		given(t, personal.Decider).When(personal.Create{Wrapped: []byte{1, 2, 3}, Master: "m1"}).Then(created)
	})
	t.Run("the first one stays", func(t *testing.T) {
		given(t, personal.Decider, created).When(personal.Create{Wrapped: []byte{4}, Master: "m2"}).Then()
	})
	t.Run("the state is the key, also as JSON", func(t *testing.T) {
		state, err := personal.Decider.Fold(personal.Key{}, created)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := json.Marshal(state)
		if want := `{"wrapped":"AQID","master":"m1"}`; err != nil || string(raw) != want {
			t.Fatalf("got %s, %v; want %s", raw, err, want)
		}
	})
	t.Run("a clone is its own", func(t *testing.T) {
		state := personal.Key{Wrapped: []byte{1}, Master: "m1"}
		personal.Decider.Clone(state).Wrapped[0] = 9
		if state.Wrapped[0] != 1 {
			t.Error("the clone shares its bytes")
		}
	})
	t.Run("half a key is a fault of ours", func(t *testing.T) {
		for _, c := range []personal.Command{nil, personal.Create{Master: "m1"}, personal.Create{Wrapped: []byte{1}}} {
			if events, err := personal.Decider.Decide(personal.Key{}, c); err == nil || domain.CodeOf(err) != "" || events != nil {
				t.Errorf("%+v: got %v, %v", c, events, err)
			}
		}
	})
	t.Run("a second key can't have been created, nor an empty one", func(t *testing.T) {
		for _, past := range [][]personal.Event{{created, created}, {personal.KeyCreated{Master: "m1"}}, {nil}} {
			if _, err := personal.Decider.Fold(personal.Key{}, past...); err == nil {
				t.Errorf("%v replays", past)
			}
		}
	})
}
