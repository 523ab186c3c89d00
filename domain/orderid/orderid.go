// Package orderid makes and reads order ids: 19 decimal digits, of which 12 are
// milliseconds since 2024, one a sequence within the millisecond and 6 the
// buyer's bucket. It also remembers which id was issued to an idempotent
// request, and whose an id is that a checkout named before its order was there,
// as an aggregate of one event.
//
// Why: an id that sorts by time and names its buyer's bucket lets a query by
// order id and one by buyer go to the same shard without a lookup
// (TestAnIDSortsByTime, TestTheLastSixDigitsAreTheBuyersBucket). It is no
// source of uniqueness: that is guarded by the append of its order, or of its
// issue, which expects no stream. The string is the id: as a JSON number it would
// lose digits above 2^53.
package orderid

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strconv"
	"time"

	"cartwright/domain"
)

// Buckets is how many buckets buyers fall into: for ever, whatever the number
// of shards.
const Buckets = 1_000_000

// PerMilli is how many ids there are of one millisecond and bucket.
const PerMilli = 10

const (
	digits       = 19
	timeDigits   = 12
	bucketDigits = 6
	// lastMilli is the last millisecond all of whose ids fit an int64: in 2053.
	lastMilli = 922_337_203_684
)

// epoch is 2024-01-01T00:00Z in milliseconds of Unix time.
const epoch = 1_704_067_200_000

// An ID is an order's id. Parse and Make are the ways to one.
type ID string

// Parse reads an id, and refuses what no Make can have made.
func Parse(s string) (ID, error) {
	if len(s) != digits || !decimal(s) || s[:timeDigits] > strconv.Itoa(lastMilli) {
		return "", domain.Refuse(domain.Invalid, "invalid_order_id", "An order id is 19 digits, as POST /v1/order-ids gives them out.")
	}
	return ID(s), nil
}

// Check refuses an id that is no order id, or whose bucket is not the buyer's.
func Check(order, buyer string) error {
	id, err := Parse(order)
	if err != nil {
		return err
	}
	if id.Bucket() != Bucket(buyer) {
		return domain.Refuse(domain.Invalid, "wrong_bucket", "Order id %s was not given out to buyer %s.", order, buyer)
	}
	return nil
}

// Make draws the id of a buyer's order at this time. Sequence, 0 to 9, tells
// ids of one millisecond apart; it fails for a time before 2024 or after 2053.
func Make(at time.Time, sequence int, buyer string) (ID, error) {
	milli := at.UnixMilli() - epoch
	if milli < 0 || milli > lastMilli {
		return "", fmt.Errorf("no order id for the time %s", at.UTC().Format(time.RFC3339))
	}
	if sequence < 0 || sequence >= PerMilli {
		return "", fmt.Errorf("no order id for the sequence %d", sequence)
	}
	return ID(fmt.Sprintf("%012d%d%06d", milli, sequence, Bucket(buyer))), nil
}

// Time is when the id was made, to the millisecond, in UTC. An ID that neither
// Parse nor Make gave has none.
func (id ID) Time() time.Time {
	if len(id) != digits || !decimal(string(id)) {
		return time.Time{}
	}
	return time.UnixMilli(epoch + number(string(id[:timeDigits]))).UTC()
}

// Bucket is the buyer's bucket, 0 to 999,999, the key by which orders are routed.
func (id ID) Bucket() int {
	if len(id) != digits || !decimal(string(id)) {
		return 0
	}
	return int(number(string(id[digits-bucketDigits:])))
}

// Bucket says which bucket a buyer falls into: the last six digits of an id
// that is a number, and for any other six digits drawn from its SHA-256.
func Bucket(buyer string) int {
	if buyer != "" && decimal(buyer) {
		return int(number(buyer[max(0, len(buyer)-bucketDigits):]))
	}
	sum := sha256.Sum256([]byte(buyer))
	return int(binary.BigEndian.Uint64(sum[:8]) % Buckets)
}

func decimal(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// number reads decimal digits, too few to overflow.
func number(s string) int64 {
	var n int64
	for i := range len(s) {
		n = n*10 + int64(s[i]-'0')
	}
	return n
}
