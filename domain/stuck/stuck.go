// Package stuck is the list of streams for which a process could not bring about
// what they call for: who they are, since when, and why. It is one stream, since
// it is short: what is on it waits for a person, or for the next try.
//
// # Why
//
// A process that tries for ever what will never work holds up its partition and
// tells nobody. One that gives up loses money. So it puts the stream on this list
// and goes on; the list is tried again from time to time, and when asked to
// (TestWhatWentWrongIsOnTheListUntilItIsDone). What is dropped from it is dropped
// by somebody, with a reason, for ever on record.
package stuck

import (
	"errors"
	"fmt"
	"maps"
	"time"

	"cartwright/domain"
	"cartwright/domain/event"
)

// ID names the one list.
const ID = "reactions"

const (
	maxText = 500
	maxList = 100_000
)

// List is the state: what waits, by stream.
type List struct {
	Waiting map[string]Entry `json:"waiting,omitempty"`
}

// An Entry is one stream that waits.
type Entry struct {
	Event  string    `json:"event"` // the name of the one that could not be followed up
	Reason string    `json:"reason"`
	Tries  int       `json:"tries"`
	Since  time.Time `json:"since"`
}

// Decider is the aggregate.
var Decider = domain.Decider[List, Command, Event]{Decide: decide, Evolve: evolve, Clone: func(l List) List {
	l.Waiting = maps.Clone(l.Waiting)
	return l
}}

// Command is a wish: it may be refused.
//
//sumtype:decl
type Command interface{ command() }

type (
	// Park puts a stream on the list.
	Park struct {
		Stream, Event, Reason string
		Tries                 int
		At                    time.Time
	}
	// Free takes a stream off the list whose process has succeeded.
	Free struct{ Stream, By string }
	// Drop takes a stream off the list that nobody will bring about any more.
	Drop struct{ Stream, By, Reason string }
)

func (Park) command() {}
func (Free) command() {}
func (Drop) command() {}

// Event is a fact: it is never refused, only found impossible.
//
//sumtype:decl
type Event interface{ event() }

type (
	// Parked put a stream on the list.
	Parked struct {
		Stream string    `json:"stream"`
		Event  string    `json:"event"`
		Reason string    `json:"reason"`
		Tries  int       `json:"tries"`
		At     time.Time `json:"at"`
	}
	// Freed took one off that is as it should be.
	Freed struct {
		Stream string `json:"stream"`
		By     string `json:"by"`
	}
	// Dropped took one off that is left as it is.
	Dropped struct {
		Stream string `json:"stream"`
		By     string `json:"by"`
		Reason string `json:"reason"`
	}
)

func (Parked) event()  {}
func (Freed) event()   {}
func (Dropped) event() {}

// Types lists the events as they are stored.
func Types() []event.Type {
	return []event.Type{
		event.Of[Parked]("stuck.parked"),
		event.Of[Freed]("stuck.freed"),
		event.Of[Dropped]("stuck.dropped"),
	}
}

func decide(l List, c Command) ([]Event, error) {
	switch c := c.(type) {
	case Park:
		return l.park(c)
	case Free:
		if _, ok := l.Waiting[c.Stream]; !ok {
			return nil, nil
		}
		return []Event{Freed(c)}, domain.CheckText("/by", c.By, maxText)
	case Drop:
		if _, ok := l.Waiting[c.Stream]; !ok {
			return nil, domain.Refuse(domain.NotFound, "not_parked", "%s is not parked.", c.Stream)
		}
		if c.Reason == "" {
			return nil, domain.Refuse(domain.Invalid, "no_reason", "What is dropped is dropped for a reason.")
		}
		return []Event{Dropped(c)}, errors.Join(domain.CheckText("/by", c.By, maxText), domain.CheckText("/reason", c.Reason, maxText))
	}
	return nil, nil
}

// park says a thing once: the same reason again is no news.
func (l List) park(c Park) ([]Event, error) {
	if runes := []rune(c.Reason); len(runes) > maxText {
		c.Reason = string(runes[:maxText])
	}
	if have, ok := l.Waiting[c.Stream]; ok && have.Reason == c.Reason {
		return nil, nil
	}
	switch {
	case c.Stream == "" || c.Reason == "":
		return nil, domain.Refuse(domain.Invalid, "no_reason", "A stream is parked by name, for a reason.")
	case len(l.Waiting) >= maxList:
		return nil, domain.Refuse(domain.Unavailable, "too_many_parked", "%d streams are parked already.", maxList)
	}
	return []Event{Parked{Stream: c.Stream, Event: c.Event, Reason: c.Reason, Tries: c.Tries, At: c.At.UTC()}}, nil
}

func evolve(l List, e Event) (List, error) {
	switch e := e.(type) {
	case Parked:
		if e.Stream == "" {
			return l, errors.New("nothing was parked")
		}
		since := e.At.UTC()
		if have, ok := l.Waiting[e.Stream]; ok {
			since = have.Since
		}
		if l.Waiting == nil {
			l.Waiting = map[string]Entry{}
		}
		l.Waiting[e.Stream] = Entry{Event: e.Event, Reason: e.Reason, Tries: e.Tries, Since: since}
		return l, nil
	case Freed:
		return l.without(e.Stream)
	case Dropped:
		return l.without(e.Stream)
	}
	return l, nil
}

func (l List) without(stream string) (List, error) {
	if _, ok := l.Waiting[stream]; !ok {
		return l, fmt.Errorf("%s was not parked", stream)
	}
	delete(l.Waiting, stream)
	return l, nil
}
