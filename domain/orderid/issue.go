package orderid

import (
	"errors"
	"fmt"

	"cartwright/domain"
	"cartwright/domain/event"
)

// Command is a wish: it may be refused.
//
//sumtype:decl
type Command interface{ command() }

// Issue gives an id out, under the key the stream is named by, which may be the id
// itself. A second one changes nothing: the id that was issued first stays the answer.
type Issue struct{ Order, Buyer string }

func (Issue) command() {}

// Event is a fact: it is never refused, only found impossible.
//
//sumtype:decl
type Event interface{ event() }

// Issued gave an id out.
type Issued struct {
	Order string `json:"order"`
	Buyer string `json:"buyer"`
}

func (Issued) event() {}

// Types lists the events as they are stored.
func Types() []event.Type {
	return []event.Type{event.Of[Issued]("orderids.issued")}
}

// Issuance is the state of one key: the id it was answered with.
type Issuance struct {
	Order string `json:"order,omitempty"`
	Buyer string `json:"buyer,omitempty"`
}

// Decider is the aggregate of one key.
var Decider = domain.Decider[Issuance, Command, Event]{
	Decide: decide,
	Evolve: evolve,
	Clone:  func(i Issuance) Issuance { return i },
}

func decide(i Issuance, c Command) ([]Event, error) {
	issue, ok := c.(Issue)
	if !ok {
		return nil, fmt.Errorf("no command %T on order ids", c)
	}
	if i.Order != "" {
		return nil, nil
	}
	if err := domain.CheckID("/buyer_id", issue.Buyer); err != nil {
		return nil, err
	}
	if err := Check(issue.Order, issue.Buyer); err != nil {
		return nil, err
	}
	return []Event{Issued(issue)}, nil
}

func evolve(i Issuance, e Event) (Issuance, error) {
	issued, ok := e.(Issued)
	switch {
	case !ok:
		return i, fmt.Errorf("no event %T on order ids", e)
	case i.Order != "":
		return i, fmt.Errorf("order id %s issued after %s", issued.Order, i.Order)
	case issued.Order == "":
		return i, errors.New("no order id issued")
	}
	return Issuance(issued), nil
}
