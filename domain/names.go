package domain

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxID  = 64
	maxSKU = 200
)

// CheckID refuses an id of a buyer, seller or account that is not 1 to 64
// characters of [A-Za-z0-9._:-]. Pointer says where in the request it stands.
func CheckID(pointer, s string) error {
	if named(s, maxID) {
		return nil
	}
	return misnamed("invalid_id", pointer, "An id is 1 to 64 characters of A-Z, a-z, 0-9, dot, underscore, colon and dash.")
}

// CheckSKU refuses a SKU that is not 1 to 200 characters of [A-Za-z0-9._:-].
func CheckSKU(pointer, s string) error {
	if named(s, maxSKU) {
		return nil
	}
	return misnamed("invalid_sku", pointer, "A SKU is 1 to 200 characters of A-Z, a-z, 0-9, dot, underscore, colon and dash.")
}

// CheckText refuses free text of more than limit characters, and text that
// would not come back from JSON, or off a printed page, as it was written:
// broken UTF-8 and control characters other than tab and newline. The empty
// text passes.
func CheckText(pointer, s string, limit int) error {
	switch {
	case !utf8.ValidString(s):
		return misnamed("invalid_text", pointer, "The text is not UTF-8.")
	case utf8.RuneCountInString(s) > limit:
		e := Refuse(Invalid, "invalid_text", "The text is longer than %d characters.", limit)
		e.Fields = []Field{{pointer, e.Detail}}
		return e
	case strings.ContainsFunc(s, unprintable):
		return misnamed("invalid_text", pointer, "The text has control characters in it.")
	}
	return nil
}

func unprintable(r rune) bool { return unicode.IsControl(r) && r != '\t' && r != '\n' }

func misnamed(reason, pointer, detail string) error {
	return &Error{Code: Invalid, Reason: reason, Detail: detail, Fields: []Field{{pointer, detail}}}
}

func named(s string, limit int) bool {
	if s == "" || len(s) > limit {
		return false
	}
	for i := range len(s) {
		if !nameByte(s[i]) {
			return false
		}
	}
	return true
}

func nameByte(b byte) bool {
	return 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9' || strings.IndexByte("._:-", b) >= 0
}

// shardMark stands between a SKU and the number of a shard. No SKU has it.
const shardMark = "~"

// StockID names the stock of a shard of a SKU. The first one, 0, is the SKU's own.
func StockID(sku string, shard int) string {
	if shard == 0 {
		return sku
	}
	return sku + shardMark + strconv.Itoa(shard)
}

// ShardOf tells what StockID made a name of.
func ShardOf(stock string) (sku string, shard int) {
	sku, number, divided := strings.Cut(stock, shardMark)
	if !divided {
		return stock, 0
	}
	if k, err := strconv.Atoi(number); err == nil && k > 0 {
		return sku, k
	}
	return stock, 0
}
