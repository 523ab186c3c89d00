package kafkabus

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/IBM/sarama"

	"cartwright/domain/event"
)

// The headers of a message. The first seven are CloudEvents' own, traceparent
// is W3C's, and recordedtime is CloudEvents' extension for when the store took
// the event; the others are ours.
const (
	headerSpec        = "ce_specversion"
	headerID          = "ce_id"
	headerType        = "ce_type"
	headerSource      = "ce_source"
	headerSubject     = "ce_subject"
	headerTime        = "ce_time"
	headerContent     = "content-type"
	headerRevision    = "ce_revision"
	headerPosition    = "ce_position"
	headerVersion     = "ce_eventversion"
	headerCause       = "ce_cause"
	headerCorrelation = "ce_correlation"
	headerActor       = "ce_actor"
	headerDigest      = "ce_digest"
	headerRecorded    = "ce_recordedtime"
	headerTrace       = "traceparent"

	specVersion = "1.0"
	contentJSON = "application/json"
)

// headerNames are the headers in the order in which they are written, as sarama
// wants them. Nobody writes to them.
var headerNames = [...][]byte{
	[]byte(headerSpec), []byte(headerID), []byte(headerType), []byte(headerSource),
	[]byte(headerSubject), []byte(headerTime), []byte(headerContent), []byte(headerRevision),
	[]byte(headerPosition), []byte(headerVersion), []byte(headerCause), []byte(headerCorrelation),
	[]byte(headerActor), []byte(headerDigest), []byte(headerRecorded), []byte(headerTrace),
}

// An encoder gives events the form they have on the bus. It keeps its room, so
// what it has given must not be used any more when it is reset.
type encoder struct {
	source   string
	bytes    []byte
	headers  []sarama.RecordHeader
	pointers []*sarama.RecordHeader
	records  []sarama.Record
}

// reset makes room again, but keeps none that is out of the ordinary.
func (c *encoder) reset() {
	if len(c.records) > keptRecords {
		*c = encoder{source: c.source}
		return
	}
	clear(c.records) // or it would hold on to the events' data
	c.bytes, c.headers, c.pointers, c.records = c.bytes[:0], c.headers[:0], c.pointers[:0], c.records[:0]
}

// keptRecords are as many as the relay publishes at once.
const keptRecords = 1000

// encode leaves out headers that would be empty. Where the room grows, what was
// given before stays where it was.
func (c *encoder) encode(e *event.Recorded) *sarama.Record {
	from := len(c.bytes)
	c.bytes = append(c.bytes, e.Stream...)
	key, first := c.bytes[from:len(c.bytes):len(c.bytes)], len(c.pointers)
	for i, name := range headerNames {
		from = len(c.bytes)
		c.bytes = appendHeader(c.bytes, i, e, c.source)
		if to := len(c.bytes); to > from {
			c.headers = append(c.headers, sarama.RecordHeader{Key: name, Value: c.bytes[from:to:to]})
			c.pointers = append(c.pointers, &c.headers[len(c.headers)-1])
		}
	}
	last := len(c.pointers)
	c.records = append(c.records, sarama.Record{Key: key, Value: e.Data, Headers: c.pointers[first:last:last]})
	return &c.records[len(c.records)-1]
}

// appendHeader appends the value of the header with that place in headerNames.
func appendHeader(b []byte, place int, e *event.Recorded, source string) []byte {
	switch string(headerNames[place]) {
	case headerSpec:
		return append(b, specVersion...)
	case headerID:
		return append(b, e.ID...)
	case headerType:
		return append(b, e.Name...)
	case headerSource:
		return append(b, source...)
	case headerSubject:
		return append(b, e.Stream...)
	case headerTime:
		return appendTime(b, e.At)
	case headerContent:
		return append(b, contentJSON...)
	case headerRevision:
		return strconv.AppendUint(b, uint64(e.Revision), 10)
	case headerPosition:
		return strconv.AppendUint(b, e.Position, 10)
	case headerVersion:
		return strconv.AppendInt(b, int64(e.Version), 10)
	case headerCause:
		return append(b, e.Cause...)
	case headerCorrelation:
		return append(b, e.Correlation...)
	case headerActor:
		return append(b, e.Actor...)
	case headerDigest:
		return append(b, e.Digest...)
	case headerRecorded:
		return appendTime(b, e.Created)
	case headerTrace:
		return append(b, e.Trace...)
	}
	return b
}

func appendTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return b
	}
	return t.UTC().AppendFormat(b, time.RFC3339Nano)
}

// Decode reads an event back from a record. A record that is none of ours is an
// error, which must never stop the group: see Batches.Broken.
func Decode(m *sarama.ConsumerMessage) (event.Recorded, error) {
	e, spec := event.Recorded{Data: json.RawMessage(m.Value)}, ""
	texts := textsOf(m.Headers)
	for _, h := range m.Headers {
		if field := textField(&e, &spec, h.Key); field != nil {
			*field = texts.cut(h)
		} else if err := parse(&e, h.Key, h.Value); err != nil {
			return event.Recorded{}, fmt.Errorf("header %s: %w", h.Key, err)
		}
	}
	if spec != specVersion {
		return event.Recorded{}, fmt.Errorf("header %s is %q, not %s", headerSpec, spec, specVersion)
	}
	return e, complete(&e)
}

// message gives an event that was published as brokers would send it, but for
// where it stands.
func (c *Config) message(e *event.Recorded) *sarama.ConsumerMessage {
	r := (&encoder{source: c.Source}).encode(e)
	return &sarama.ConsumerMessage{Key: r.Key, Value: r.Value, Headers: r.Headers}
}

// asRead gives an event that was published as Decode would give it.
func asRead(e event.Recorded) event.Recorded {
	e.At, e.Created = e.At.UTC(), e.Created.UTC()
	return e
}

// typeOf is the name of the event that a record carries, or of what it carries
// instead of one; nil without a name.
func typeOf(m *sarama.ConsumerMessage) []byte {
	for _, h := range m.Headers {
		if string(h.Key) == headerType {
			return h.Value
		}
	}
	return nil
}

// texts are the values of all headers that become strings, in their order and in
// one piece: many fields with one allocation.
type texts string

func textsOf(headers []*sarama.RecordHeader) texts {
	size := 0
	for _, h := range headers {
		if isText(h.Key) {
			size += len(h.Value)
		}
	}
	var all strings.Builder
	all.Grow(size)
	for _, h := range headers {
		if isText(h.Key) {
			all.Write(h.Value)
		}
	}
	return texts(all.String())
}

// cut takes the value of the next header.
func (t *texts) cut(h *sarama.RecordHeader) string {
	all, n := *t, len(h.Value)
	*t = all[n:]
	return string(all[:n])
}

// textField is where the value of a header belongs that becomes a string, nil for
// others.
func textField(e *event.Recorded, spec *string, name []byte) *string {
	switch string(name) {
	case headerSpec:
		return spec
	case headerID:
		return &e.ID
	case headerType:
		return &e.Name
	case headerSubject:
		return &e.Stream
	case headerCause:
		return &e.Cause
	case headerCorrelation:
		return &e.Correlation
	case headerActor:
		return &e.Actor
	case headerDigest:
		return &e.Digest
	case headerTrace:
		return &e.Trace
	}
	return nil
}

func isText(name []byte) bool { return textField(&event.Recorded{}, new(string), name) != nil }

// parse sets the field of e that a header stands for in another form. Unknown
// headers are somebody else's.
func parse(e *event.Recorded, name, value []byte) (err error) {
	switch string(name) {
	case headerTime:
		e.At, err = time.Parse(time.RFC3339Nano, string(value))
	case headerRecorded:
		e.Created, err = time.Parse(time.RFC3339Nano, string(value))
	case headerPosition:
		e.Position, err = strconv.ParseUint(string(value), 10, 64)
	case headerVersion:
		e.Version, err = strconv.Atoi(string(value))
	case headerRevision:
		var r uint64
		r, err = strconv.ParseUint(string(value), 10, 64)
		e.Revision = event.Revision(r)
	}
	return err
}

func complete(e *event.Recorded) error {
	switch {
	case e.Name == "":
		return errors.New("header " + headerType + " is missing")
	case e.Stream == "":
		return errors.New("header " + headerSubject + " is missing")
	case e.ID == "":
		return errors.New("header " + headerID + " is missing")
	case e.Revision == 0:
		return errors.New("header " + headerRevision + " is missing")
	case e.Position == 0:
		return errors.New("header " + headerPosition + " is missing")
	case e.Version < 1:
		return errors.New("header " + headerVersion + " is missing")
	}
	return nil
}
