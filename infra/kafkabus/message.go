package kafkabus

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
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

// valuesSize is what the headers' values of an event of ours need.
const valuesSize = 384

// encode gives an event the form it has on the bus. What is empty is left out.
func encode(e event.Recorded, source string) *sarama.Record {
	r := &sarama.Record{Key: []byte(e.Stream), Value: e.Data, Headers: make([]*sarama.RecordHeader, 0, len(headerNames))}
	values := make([]byte, 0, valuesSize) // one allocation for all, and still right if it grows
	headers := make([]sarama.RecordHeader, 0, len(headerNames))
	for i, name := range headerNames {
		from := len(values)
		values = appendHeader(values, i, e, source)
		if to := len(values); to > from {
			headers = append(headers, sarama.RecordHeader{Key: name, Value: values[from:to:to]})
			r.Headers = append(r.Headers, &headers[len(headers)-1])
		}
	}
	return r
}

// appendHeader appends the value of the header with that place in headerNames.
func appendHeader(b []byte, place int, e event.Recorded, source string) []byte {
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
	e := event.Recorded{Data: json.RawMessage(m.Value)}
	var spec string
	t := texts{}
	for _, h := range m.Headers {
		if field := text(&e, &spec, h.Key); field != nil {
			t.add(field, h.Value)
		} else if err := parse(&e, h.Key, h.Value); err != nil {
			return event.Recorded{}, fmt.Errorf("header %s: %w", h.Key, err)
		}
	}
	t.set()
	if spec != specVersion {
		return event.Recorded{}, fmt.Errorf("header %s is %q, not %s", headerSpec, spec, specVersion)
	}
	return e, complete(e)
}

// texts fills many string fields with one allocation.
type texts struct {
	all    []byte
	fields []textField
	room   [valuesSize]byte
	places [len(headerNames)]textField
}

type textField struct {
	field *string
	end   int
}

func (t *texts) add(field *string, value []byte) {
	if t.all == nil {
		t.all, t.fields = t.room[:0], t.places[:0]
	}
	t.all = append(t.all, value...)
	t.fields = append(t.fields, textField{field, len(t.all)})
}

func (t *texts) set() {
	all, from := string(t.all), 0
	for _, f := range t.fields {
		*f.field, from = all[from:f.end], f.end
	}
}

// text gives the field that a header is the text of, nil if there is none.
func text(e *event.Recorded, spec *string, name []byte) *string {
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

func complete(e event.Recorded) error {
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
