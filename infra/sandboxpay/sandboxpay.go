// Package sandboxpay is a payment channel with a small server of its own: the
// stand-in for a real one in tests and demos. Client is how the shop speaks to
// it, a commands.Channel like any other; Server is the channel, with buyers who
// pay by themselves if told to, callbacks that get lost, repeated, late or out of
// turn as told, and a daily bill.
//
// # Why
//
// A server of its own, not a fake in the shop's process: what goes wrong with
// channels goes wrong between two processes, where an answer is lost after its
// effect, a process dies in the middle, and a callback overtakes the answer to the
// request that caused it. Every call may be made again, whatever became of the
// first (TestEveryCallMadeTwiceIsDoneOnce, TestALostAnswerIsSettledByTheSameCall).
//
// What befalls a callback hangs on the seed and on what the callback is about, and
// not on a sequence of random numbers. So a run with thousands under way at once
// meets the same faults as the one before, in whatever order things happen
// (TestTheSameSeedBringsTheSameFaults). One thing at most befalls each, so that
// the shares are shares of all of them (TestFaultsAreCountedAsTheyAreMet).
//
// A close of a payment that the channel never heard of is kept as a closed one:
// the request to take it may be still under way, and must not be taken when it
// comes (TestAPaymentClosedBeforeItWasAskedForCantBeAskedFor).
//
// An answer of 401, 403 or 429 is no refusal to the client but domain.Unavailable:
// it says nothing of the payment, and a secret that is rotated on one side first
// must not fail payments for ever (TestWhatSaysNothingOfThePaymentIsNoRefusal).
//
// The journal is one file of JSON lines. An answer waits until all that it tells
// is on disk, also what somebody else's request changed; requests that wait
// together are written together (TestWhatWasAnsweredIsThereAfterAKill). Whether a
// callback was acknowledged is written with whatever is written next: should it be
// lost, the callback comes once more, which callbacks do anyway. A last line that
// was cut off was not answered yet, and is dropped; a line in the middle that
// can't be read stops the start (TestATornLastLineIsCutOff,
// TestADamagedJournalIsRefused).
//
// Buyers' calls are not signed. Keep it on loopback.
package sandboxpay

import (
	"strings"
	"time"

	"cartwright/domain/money"
)

// What goes over the wire is bounded.
const (
	maxBody    = 64 << 10
	maxSubject = 256
	maxPayment = 32 // characters of a payment's id
	maxRefund  = 64 // characters of a refund's key
)

// A status of a payment or a refund.
type status string

const (
	pending   status = "pending"
	paid      status = "paid"
	succeeded status = "succeeded"
	failed    status = "failed"
)

// An asked is a request for a payment.
type asked struct {
	Payment  string    `json:"payment"`
	Amount   int64     `json:"amount"`
	Currency string    `json:"currency"`
	Subject  string    `json:"subject,omitempty"`
	Expires  time.Time `json:"expires,omitzero"`
}

// A paymentView is a payment as it is answered.
type paymentView struct {
	Merchant  string       `json:"merchant"`
	Payment   string       `json:"payment"`
	Reference string       `json:"reference"` // the channel's name of it before it is paid
	Status    status       `json:"status"`
	Amount    int64        `json:"amount"` // what was asked for
	Currency  string       `json:"currency"`
	Subject   string       `json:"subject,omitempty"`
	Created   time.Time    `json:"created"`
	Expires   time.Time    `json:"expires,omitzero"`
	Pay       string       `json:"pay"` // the path of the buyer's page
	Trade     string       `json:"trade,omitempty"`
	Paid      *money.Money `json:"paid,omitempty"`
	At        time.Time    `json:"at,omitzero"` // when it was paid, or failed
	Note      string       `json:"note,omitempty"`
}

// A returning is a request for a refund.
type returning struct {
	Refund   string `json:"refund"`
	Amount   int64  `json:"amount"`
	Total    int64  `json:"total"` // of the payment
	Currency string `json:"currency"`
	Reason   string `json:"reason,omitempty"`
}

// A refundView is a refund as it is answered.
type refundView struct {
	Merchant string    `json:"merchant"`
	Payment  string    `json:"payment"`
	Trade    string    `json:"trade"`
	Refund   string    `json:"refund"`
	Status   status    `json:"status"`
	Amount   int64     `json:"amount"`
	Currency string    `json:"currency"`
	At       time.Time `json:"at,omitzero"` // when it succeeded or failed
	Note     string    `json:"note,omitempty"`
}

// A callback is what the shop is told.
type callback struct {
	Merchant string    `json:"merchant"`
	Kind     string    `json:"kind"` // a commands.NoticeKind
	Payment  string    `json:"payment"`
	Trade    string    `json:"trade,omitempty"`
	Refund   string    `json:"refund,omitempty"`
	Amount   int64     `json:"amount,omitempty"`
	Currency string    `json:"currency,omitempty"`
	At       time.Time `json:"at,omitzero"`
	Note     string    `json:"note,omitempty"`
}

// A refusal is what is answered to a request that is not carried out.
type refusal struct {
	Code   string `json:"code"`
	Detail string `json:"detail"`
}

// goodPayment says whether id may name a payment.
func goodPayment(id string) bool { return named(id, maxPayment, "-") }

// goodRefund says whether key may name a refund. Names of dots alone mean
// something else in a path.
func goodRefund(key string) bool {
	return named(key, maxRefund, "-.") && strings.Trim(key, ".") != ""
}

// named says whether s is letters, digits and some others, at most so many.
func named(s string, most int, others string) bool {
	if s == "" || len(s) > most {
		return false
	}
	for _, c := range []byte(s) {
		letter := 'a' <= c|0x20 && c|0x20 <= 'z'
		if !letter && ('0' > c || c > '9') && strings.IndexByte(others, c) < 0 {
			return false
		}
	}
	return true
}
