package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"cartwright/domain"
	"cartwright/domain/account"
	"cartwright/domain/money"
)

// A sourceOrder is one line of a file to be imported. A zero time is one that
// the file does not know.
type sourceOrder struct {
	ID          string       `json:"order_id"`
	Buyer       string       `json:"buyer_id"`
	Status      string       `json:"status"`
	PurchasedAt time.Time    `json:"purchased_at"`
	ApprovedAt  time.Time    `json:"approved_at"`
	ShippedAt   time.Time    `json:"shipped_at"`
	DeliveredAt time.Time    `json:"delivered_at"`
	Items       []sourceItem `json:"items"`
}

// A sourceItem is one unit that was bought.
type sourceItem struct {
	Line     int    `json:"line"`
	Product  string `json:"product_id"`
	Seller   string `json:"seller_id"`
	Price    int64  `json:"price_minor"`
	Freight  int64  `json:"freight_minor"`
	Category string `json:"category"` // "" is none
}

// The members of a line and of an item: true for those that may be null, or absent.
var (
	orderMembers = map[string]bool{
		"order_id": false, "buyer_id": false, "status": false, "items": false,
		"purchased_at": true, "approved_at": true, "shipped_at": true, "delivered_at": true,
	}
	itemMembers = map[string]bool{
		"line": false, "product_id": false, "seller_id": false, "price_minor": false, "freight_minor": false, "category": true,
	}
)

// Bounds of a file. Those of an order are the API's, so that it need not refuse
// one after others were written.
const (
	maxLineBytes = 1 << 20
	maxLines     = 200 // of an order
	maxStatus    = 64
	maxCategory  = 200
)

// readOrders reads a whole file of JSON lines. It takes nothing that it does
// not know for sure, since what it takes is written for ever: the error names
// the first line that is not an order.
func readOrders(r io.Reader) ([]sourceOrder, error) {
	var orders []sourceOrder
	lines := map[string]int{} // where each order stands
	scan := bufio.NewScanner(r)
	scan.Buffer(make([]byte, 0, 64<<10), maxLineBytes)
	n := 0
	for scan.Scan() {
		n++
		text := bytes.TrimSpace(scan.Bytes())
		if len(text) == 0 {
			continue
		}
		o, err := readOrder(text)
		if err == nil && lines[o.ID] > 0 {
			err = fmt.Errorf("order %s stands on line %d already", o.ID, lines[o.ID])
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		lines[o.ID] = n
		orders = append(orders, o)
	}
	if err := scan.Err(); err != nil {
		return nil, fmt.Errorf("line %d: %w", n+1, err)
	}
	return orders, nil
}

func readOrder(text []byte) (sourceOrder, error) {
	var o sourceOrder
	if !utf8.Valid(text) {
		return o, errors.New("it is not UTF-8")
	}
	members, err := readMembers(text, orderMembers)
	if err != nil {
		return o, err
	}
	var items []json.RawMessage
	if err := json.Unmarshal(members["items"], &items); err != nil {
		return o, fmt.Errorf("items: %w", plainly(err))
	}
	for i, item := range items {
		if _, err := readMembers(item, itemMembers); err != nil {
			return o, fmt.Errorf("item %d: %w", i+1, err)
		}
	}
	if err := json.Unmarshal(text, &o); err != nil {
		return o, plainly(err)
	}
	return o, o.check()
}

// readMembers reads an object whose members are known by name. What
// encoding/json takes in silence is refused: other letters, a member that comes
// twice, null where something must be.
func readMembers(text []byte, known map[string]bool) (map[string]json.RawMessage, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	if begin, err := dec.Token(); err != nil || begin != json.Delim('{') {
		return nil, errors.New("it is not a JSON object")
	}
	members := map[string]json.RawMessage{}
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return nil, plainly(err)
		}
		name, _ := token.(string) // nothing else stands there, or Token would have failed
		optional, ok := known[name]
		if _, twice := members[name]; !ok || twice {
			return nil, fmt.Errorf("%q is unknown here, or stands there twice", name)
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, plainly(err)
		}
		if !optional && string(value) == "null" {
			return nil, fmt.Errorf("%q is null", name)
		}
		members[name] = value
	}
	if _, err := dec.Token(); err != nil {
		return nil, plainly(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something stands behind the JSON object")
	}
	for name, optional := range known {
		if _, ok := members[name]; !ok && !optional {
			return nil, fmt.Errorf("%q is missing", name)
		}
	}
	return members, nil
}

// plainly says what is wrong with JSON in the words of a file's author.
func plainly(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the JSON ends too early")
	}
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Errorf("%q is a JSON %s, which cannot be used there", wrong.Field, wrong.Value)
	}
	return err
}

// check refuses an order that the API would refuse.
func (o sourceOrder) check() error {
	switch {
	case domain.CheckID("", o.ID) != nil:
		return fmt.Errorf("order_id %q is no id", o.ID)
	case domain.CheckID("", o.Buyer) != nil || account.IsPlatform(o.Buyer):
		return fmt.Errorf("buyer_id %q is no buyer's id", o.Buyer)
	case o.Status == "" || domain.CheckText("", o.Status, maxStatus) != nil:
		return fmt.Errorf("status %q is none", o.Status)
	case len(o.Items) == 0 || len(o.Items) > maxLines:
		return fmt.Errorf("an order has 1 to %d items, not %d", maxLines, len(o.Items))
	}
	for i, item := range o.Items {
		if err := item.check(); err != nil {
			return fmt.Errorf("item %d: %w", i+1, err)
		}
		if slices.ContainsFunc(o.Items[:i], func(other sourceItem) bool { return other.Line == item.Line }) {
			return fmt.Errorf("item %d: there is a line %d already", i+1, item.Line)
		}
	}
	_, err := o.total()
	return err
}

func (i sourceItem) check() error {
	switch {
	case i.Line < 1:
		return fmt.Errorf("line %d: lines begin with 1", i.Line)
	case domain.CheckID("", i.Product) != nil || strings.Contains(i.Product, skuSeparator):
		return fmt.Errorf("product_id %q is no id, or has a colon, which parts the names of SKUs", i.Product)
	case domain.CheckID("", i.Seller) != nil || account.IsPlatform(i.Seller):
		return fmt.Errorf("seller_id %q is no seller's id", i.Seller)
	case i.Price < 0 || i.Freight < 0:
		return errors.New("a price or a freight is negative")
	case domain.CheckText("", i.Category, maxCategory) != nil:
		return fmt.Errorf("category %q is too long or can't be printed", i.Category)
	}
	return nil
}

// total is what the order costs.
func (o sourceOrder) total() (total int64, err error) {
	for _, item := range o.Items {
		var unit int64
		if unit, err = money.Add(item.Price, item.Freight); err == nil {
			total, err = money.Add(total, unit)
		}
		if err != nil {
			return 0, fmt.Errorf("what the order costs: %w", err)
		}
	}
	return total, nil
}
