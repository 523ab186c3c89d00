package token_test

import (
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"cartwright/domain"
	"cartwright/domain/event"
	"cartwright/infra/token"
)

func TestATokenSaysWhatWasPutIn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.MapOfN(rapid.StringMatching(`(order|inventory)-[a-z0-9.:-]{1,60}`),
			rapid.Map(rapid.Uint64(), func(n uint64) event.Revision { return event.Revision(n) }), 1, 40).Draw(t, "streams")
		encoded := token.Encode(want)
		if again := token.Encode(want); again != encoded {
			t.Fatalf("the same streams gave %q and %q", encoded, again)
		}
		got, err := token.Decode(encoded)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestNoStreamsNeedNoToken(t *testing.T) {
	if got := token.Encode(nil); got != "" {
		t.Errorf("got %q", got)
	}
	if got, err := token.Decode(""); got != nil || err != nil {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestADamagedTokenIsRefused(t *testing.T) {
	good := token.Encode(map[string]event.Revision{"order-0598392000000123456": 3, "inventory-x": 1 << 40})
	bad := map[string]string{
		"words":                  "not a token",
		"padding":                good + "==",
		"too long":               strings.Repeat("A", 1<<17),
		"empty":                  signed([]byte{1})[:4],
		"format":                 signed([]byte{2, 1, 'a', 1}),
		"name past the end":      signed([]byte{1, 200, 'a', 1}),
		"revision missing":       signed([]byte{1, 1, 'a'}),
		"a name without letters": signed([]byte{1, 0, 1}),
	}
	for i := range len(good) {
		bad["without byte "+good[:i]] = good[:i] + good[i+1:]
		swapped := byte('A')
		if good[i] == swapped {
			swapped = 'B'
		}
		bad["other byte "+good[:i]] = good[:i] + string(swapped) + good[i+1:]
	}
	for name, tok := range bad {
		got, err := token.Decode(tok)
		if domain.ReasonOf(err) != "token_invalid" || domain.CodeOf(err) != domain.Invalid {
			t.Errorf("%s: got %v, %v, want token_invalid", name, got, err)
		}
	}
}

// signed gives body the checksum that makes it look like one of ours.
func signed(body []byte) string {
	sum := crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli))
	return base64.RawURLEncoding.EncodeToString(binary.BigEndian.AppendUint32(body, sum))
}
