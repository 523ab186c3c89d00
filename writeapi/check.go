package writeapi

import (
	"errors"
	"fmt"
	"strconv"

	"cartwright/domain"
	"cartwright/domain/money"
	"cartwright/domain/orderid"
)

// Bounds of what a request may ask for; the aggregates check again.
const (
	maxItems    = 200
	maxQuantity = 1_000_000_000
	maxText     = 500 // characters of a reason, a reference or a note
	maxCarrier  = 100 // characters of a carrier's name, and of a waybill's number
)

// faults collects what is wrong with a request. The answer has the slug of the
// first and names them all.
type faults struct {
	first  *domain.Error
	fields []domain.Field
}

// add takes a refusal of one field or of several.
func (f *faults) add(err error) {
	e, ok := errors.AsType[*domain.Error](err)
	if !ok {
		return
	}
	if f.first == nil {
		f.first = e
	}
	f.fields = append(f.fields, e.Fields...)
}

// require notes a fault unless ok.
func (f *faults) require(ok bool, slug, pointer, detail string) {
	if !ok {
		f.add(&domain.Error{Code: domain.Invalid, Reason: slug, Detail: detail, Fields: []domain.Field{{Pointer: pointer, Detail: detail}}})
	}
}

func (f *faults) err() error {
	if f.first == nil {
		return nil
	}
	e := *f.first
	e.Fields = f.fields
	return &e
}

func (f *faults) order(pointer, s string) orderid.ID {
	id, err := orderid.Parse(s)
	f.require(err == nil, "invalid_order_id", pointer, "An order id is 19 digits, as POST /v1/order-ids gives them out.")
	return id
}

func (f *faults) present(ok bool, pointer string) {
	f.require(ok, "missing_field", pointer, "This is required.")
}

func (f *faults) text(pointer, s string, limit int) { f.add(domain.CheckText(pointer, s, limit)) }

func (f *faults) between(pointer string, n, least, most int64) {
	if n < least || n > most {
		f.require(false, "invalid_quantity", pointer, fmt.Sprintf("This is a whole number from %d to %d.", least, most))
	}
}

func (f *faults) currency(pointer, code string) {
	f.require(money.Valid(code), "unknown_currency", pointer, "This is no ISO-4217 currency.")
}

// amount checks money that may be absent, of at least this many minor units.
func (f *faults) amount(pointer string, m *money.Money, least int64) {
	if m == nil {
		return
	}
	f.require(m.Amount >= least, "invalid_amount", pointer+"/amount", "This is at least "+strconv.FormatInt(least, 10)+" minor units.")
	f.currency(pointer+"/currency", m.Currency)
}

// lines checks that a list has something in it, and not too much.
func (f *faults) lines(pointer string, n int) {
	if n < 1 || n > maxItems {
		f.require(false, "wrong_item_count", pointer, fmt.Sprintf("This has 1 to %d items.", maxItems))
	}
}

// at is the pointer to an item of a list.
func at(list string, i int, rest string) string { return list + "/" + strconv.Itoa(i) + rest }
