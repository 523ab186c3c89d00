package commands

import (
	"context"
	"encoding/json"
	"time"

	"cartwright/domain/money"
)

// A Channel is a way for money to come from outside, and to go back. All of it
// may be called again: what was asked for before is found, and not done twice.
//
// An error without a code, or with domain.Unavailable, leaves the outcome open:
// the same call settles it. Any other says that the channel has refused, for
// good, and why.
type Channel interface {
	// Ask has the channel take a payment, and gives what the buyer needs to make it.
	Ask(ctx context.Context, p Asking) (Instruction, error)
	// Find tells what has become of a payment. One that the channel never heard
	// of is NoticePending without a trade.
	Find(ctx context.Context, payment string) (Notice, error)
	// Close ends a payment that nobody made, so that nobody can make it any more.
	// Where it was made meanwhile, that is the answer, as Find gives it.
	Close(ctx context.Context, payment string) (Notice, error)
	// Refund gives some of a payment back. NoticePending is an answer: Refund asks
	// again then, under the same key.
	Refund(ctx context.Context, r Returning) (Notice, error)
}

// An Asking is a payment that a channel is asked to take.
type Asking struct {
	Payment string            // our id, which the channel has for ever: letters, digits and dashes, 32 at most
	Total   money.Money       // more than nothing
	Subject string            // for the buyer to read
	Expires time.Time         // to the second; zero is never
	Options map[string]string // the channel's own, from the request: a scene, the payer's id
}

// An Instruction is what the buyer's client does to pay: a link, a code, parameters.
type Instruction struct {
	Reference string          // the channel's own name of the payment, if it has one
	Data      json.RawMessage // an object, as the client is given it
}

// A Returning is money that goes back through the channel it came by.
type Returning struct {
	Payment string
	Key     string      // our id of the refund, 64 at most: letters, digits, dots and dashes
	Amount  money.Money // of this refund
	Total   money.Money // of the payment
	Reason  string
}

// A NoticeKind says what a channel has to tell.
type NoticeKind string

// What channels tell.
const (
	NoticePending      NoticeKind = "pending" // nothing has happened yet
	NoticePaid         NoticeKind = "paid"
	NoticeFailed       NoticeKind = "failed" // closed, revoked, or never to come for another reason
	NoticeRefunded     NoticeKind = "refunded"
	NoticeRefundFailed NoticeKind = "refund_failed"
)

// A Notice is what a channel says of a payment, or of a refund. It comes with an
// answer, or in a callback whose signature, merchant and application were
// verified by who read it. Whether it is the right payment and the right amount
// is for the payment to decide.
type Notice struct {
	Kind    NoticeKind
	Payment string      // ours
	Trade   string      // the channel's own number of the payment, for ever unique there; empty before it was made
	Refund  string      // the key of ours, where it is about one
	Money   money.Money // what was paid, or what goes back
	At      time.Time   // when it happened, by the channel's clock; zero where it does not say
	Note    string      // why, where it failed
}
