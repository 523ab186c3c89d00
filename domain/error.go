package domain

import (
	"errors"
	"fmt"
	"time"
)

// A Code says what kind of failure this is. Callers branch on it and on nothing else.
type Code string

// The codes. Adding one means adding its HTTP status in infra/problem.
const (
	Invalid     Code = "invalid"              // the request makes no sense
	NotFound    Code = "not_found"            // there is no such thing
	Conflict    Code = "conflict"             // the state forbids it now: stock, price, status, a taken id
	Stale       Code = "stale"                // If-Match names a version that is no longer the newest
	Rejected    Code = "rejected"             // a rule about amounts or policy says no
	Required    Code = "precondition_missing" // the change needs an If-Match
	TooMany     Code = "too_many"             // slow down
	Unavailable Code = "unavailable"          // try again later
)

// Error is the one error the edges understand. Reason, Detail and Fields may be
// shown to the caller; Err is for the log only.
type Error struct {
	Code       Code
	Reason     string // a stable slug: "out_of_stock"
	Detail     string // a sentence for people
	Fields     []Field
	RetryAfter time.Duration // with Unavailable and TooMany
	Err        error
}

// A Field is one part of a request that is wrong, or that a refusal is about.
type Field struct {
	Pointer string `json:"pointer"` // a JSON pointer into the body: "/items/0/sku"
	Detail  string `json:"detail"`
}

func (e *Error) Error() string {
	s := fmt.Sprintf("%s: %s: %s", e.Code, e.Reason, e.Detail)
	if e.Err != nil {
		return fmt.Sprintf("%s: %v", s, e.Err)
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// Refuse makes an error of this code that a caller can act on.
func Refuse(code Code, reason, format string, args ...any) *Error {
	return &Error{Code: code, Reason: reason, Detail: fmt.Sprintf(format, args...)}
}

// CodeOf finds the code in err's chain. An error without one is a fault of
// ours: the edges log it and say nothing of it.
func CodeOf(err error) Code {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return ""
}

// ReasonOf finds the slug in err's chain, or "".
func ReasonOf(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Reason
	}
	return ""
}

// ReplayError says at which event a history stops making sense. It has no Code
// on purpose: nothing a caller does can help.
type ReplayError struct {
	At  int
	Err error
}

func (e *ReplayError) Error() string { return fmt.Sprintf("replay event %d: %v", e.At, e.Err) }
func (e *ReplayError) Unwrap() error { return e.Err }
