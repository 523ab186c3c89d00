package esdbnode

import (
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// The field numbers of streams.proto that are used here.
const (
	respSuccess = 1 // of an append's answer

	successRevision   = 1
	successNoStream   = 2
	successPosition   = 3
	successNoPosition = 4

	batchCorrelation = 1 // of a request and of an answer
	batchOptions     = 2
	batchProposed    = 3
	batchFinal       = 4

	batchError   = 2 // of an answer
	batchSuccess = 3
	batchStream  = 4

	batchOptTimestamp = 6
	batchOptDuration  = 7
)

// A successMessage is an AppendResp of an append that was done.
type successMessage struct{ events, position uint64 }

func (*successMessage) maxSize() int { return 64 }

func (m *successMessage) append(b []byte) []byte { return m.appendAs(b, respSuccess) }

// appendAs writes what both answers have in common.
func (m *successMessage) appendAs(b []byte, field protowire.Number) []byte {
	return nested(b, field, func(b []byte) []byte {
		if m.events == 0 {
			b = appendEmpty(b, successNoStream)
		} else {
			b = appendUint(b, successRevision, m.events-1)
		}
		if m.position == 0 {
			return appendEmpty(b, successNoPosition)
		}
		return nested(b, successPosition, func(b []byte) []byte {
			return appendUint(appendUint(b, 1, m.position), 2, m.position)
		})
	})
}

func appendEmpty(b []byte, field protowire.Number) []byte {
	return append(protowire.AppendTag(b, field, protowire.BytesType), 0)
}

// A batchSuccessMessage is a BatchAppendResp of an append that was done.
type batchSuccessMessage struct {
	successMessage
	echo   string // the correlation id as it came
	stream string
}

func (m *batchSuccessMessage) maxSize() int { return 160 + len(m.echo) + len(m.stream) }

func (m *batchSuccessMessage) append(b []byte) []byte {
	b = appendNames(b, m.echo, m.stream)
	return m.appendAs(b, batchSuccess)
}

// appendNames writes which append an answer is about, as far as that was said.
func appendNames(b []byte, echo, stream string) []byte {
	if echo != "" {
		b = appendString(b, batchCorrelation, echo)
	}
	if stream == "" {
		return b
	}
	return nested(b, batchStream, func(b []byte) []byte { return appendString(b, streamName, stream) })
}

// A batchErrorMessage is a BatchAppendResp of an append that was not done.
type batchErrorMessage struct {
	answer       proto.Message // a google.rpc.Status
	echo, stream string
}

func (m *batchErrorMessage) maxSize() int {
	return 64 + proto.Size(m.answer) + len(m.echo) + len(m.stream)
}

func (m *batchErrorMessage) append(b []byte) []byte {
	b = appendNames(b, m.echo, m.stream)
	return nested(b, batchError, func(b []byte) []byte {
		b, err := proto.MarshalOptions{}.MarshalAppend(b, m.answer)
		if err != nil {
			panic(err) // a message of our own
		}
		return b
	})
}

// A batchMessage is a BatchAppendReq: part of an append, or all of it. What it
// takes from the wire is what the generated types would take (FuzzBatchMessage),
// up to the first event that cannot be appended: behind that one there is nothing
// to be done. Else two bytes of a message would become a hundred in memory.
type batchMessage struct {
	correlated  bool
	echo        string // of the correlation id, as it came
	correlation sentID
	options     appendMessage // its options, where they are there
	deadline    time.Time     // by which it must be decided, zero for none
	now         func() time.Time
	events      []proposed
	final       bool

	length int      // of the whole message
	span   sentSpan // what the deadline was sent as
	ended  bool     // an event cannot be appended
}

// A sentSpan is a moment or a duration as it was sent: seconds, and nanoseconds.
type sentSpan struct {
	field int32 // batchOptTimestamp or batchOptDuration, 0 for none
	parts [2]int64
}

func (m *batchMessage) parse(b []byte) error {
	clear(m.events)
	*m = batchMessage{now: m.now, events: m.events[:0], length: len(b)}
	err := fields(string(b), 1<<batchFinal, func(field int32, value string, n uint64) (err error) {
		switch field {
		case batchCorrelation:
			m.correlated = true
			m.echo += value
			err = m.correlation.parse(value)
		case batchOptions:
			m.options.hasOptions = true
			if err = m.options.parseOptions(value); err == nil {
				err = m.span.parse(value)
			}
		case batchProposed:
			err = m.parseEvent(value)
		case batchFinal:
			m.final = n != 0
		}
		return err
	})
	m.deadline = m.span.end(m.now)
	m.trim()
	return err
}

func (m *batchMessage) parseEvent(s string) error {
	if m.ended {
		return nil
	}
	m.events = append(m.events, proposed{})
	p := &m.events[len(m.events)-1]
	err := p.parse(s)
	m.ended = !p.hasKind || !p.typed || p.id == [16]byte{}
	return err
}

// trim lets go of a message of which little is wanted, like that of an append.
// What is remembered for longer than the events that came with it is copied always.
func (m *batchMessage) trim() {
	m.options.stream, m.echo = strings.Clone(m.options.stream), strings.Clone(m.echo)
	used := 0
	for i := range m.events {
		used += m.events[i].size()
	}
	if m.length-used <= used+1<<10+maxOverhead*len(m.events) {
		return
	}
	for i := range m.events {
		m.events[i].detach()
	}
}

// maxOverhead is more than what surrounds an event in a message that has nothing
// else in it.
const maxOverhead = 128

// parse finds, in the options, a moment or how long from now. They exclude each
// other, and the last one counts; either may come in pieces, as all messages may.
func (d *sentSpan) parse(options string) error {
	return fields(options, 0, func(field int32, value string, _ uint64) error {
		if field != batchOptTimestamp && field != batchOptDuration {
			return nil
		}
		if d.field != field {
			*d = sentSpan{field: field}
		}
		return fields(value, 1<<1|1<<2, func(field int32, _ string, n uint64) error {
			switch field {
			case 1:
				d.parts[0] = int64(n) //nolint:gosec // as protobuf has them
			case 2:
				d.parts[1] = int64(int32(n)) //nolint:gosec // as protobuf has them
			}
			return nil
		})
	})
}

// end is the moment that was meant, within what has a meaning.
func (d *sentSpan) end(now func() time.Time) time.Time {
	switch d.field {
	case batchOptTimestamp:
		return time.Unix(max(firstSecond, min(d.parts[0], lastSecond)), d.parts[1])
	case batchOptDuration:
		return after(now(), d.parts[0], d.parts[1])
	}
	return time.Time{}
}

// The bounds of protobuf's timestamps: the years 1 to 9999. The .NET client sends
// the last of it where it means none.
const (
	firstSecond = -62135596800
	lastSecond  = 253402300799
)

// maxPatience is longer than anybody waits for an append, in seconds.
const maxPatience = 365 * 24 * 3600

// after is a moment that lies some time ahead, or behind if that is negative.
func after(now time.Time, seconds, nanos int64) time.Time {
	seconds = max(-maxPatience, min(seconds, maxPatience))
	return now.Add(time.Duration(seconds)*time.Second + time.Duration(nanos))
}
