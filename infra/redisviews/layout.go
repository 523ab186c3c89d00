package redisviews

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"cartwright/domain/event"
	"cartwright/domain/orderid"
	"cartwright/projections"
)

// Keys of one bucket, a document and its buyer's list, are in one slot. What
// belongs to all generations is in another, under {buyers}.
func (b *Buyers) shared(name string) string { return b.db.cfg.Namespace + ":{buyers}:" + name }

func (b *Buyers) lineageKey() string { return b.shared("lineage") }

// registry are the keys of the lineage, the writers and the sweep.
func (b *Buyers) registry() []string {
	return []string{b.lineageKey(), b.shared("writers"), b.shared("sweep")}
}

// prefix is before all keys of all generations.
func (b *Buyers) prefix() string { return b.db.cfg.Namespace + ":buyers:" }

func (b *Buyers) docKey(generation, stream string) string {
	return b.prefix() + generation + ":{" + digits(bucketOf(stream)) + "}d:" + stream
}

func (b *Buyers) listKey(generation, buyer string) string {
	return b.prefix() + generation + ":{" + digits(buyerBucket(buyer)) + "}l:" + buyer
}

// hintKey has the streams that were ever parked in a generation.
func (b *Buyers) hintKey(generation string) string { return b.prefix() + generation + ":parked" }

// docPattern finds the documents' keys of a generation.
func (b *Buyers) docPattern(generation string) string { return b.prefix() + generation + ":{*}d:*" }

// streamOf reads a document's key.
func streamOf(key string) string {
	_, stream, _ := strings.Cut(key, "}d:")
	return stream
}

// generationOf reads any key of a generation.
func (b *Buyers) generationOf(key string) string {
	generation, _, _ := strings.Cut(strings.TrimPrefix(key, b.prefix()), ":")
	return generation
}

func digits(bucket int) string {
	const width = 6
	text := strconv.Itoa(bucket)
	return strings.Repeat("0", width-len(text)) + text
}

// bucketOf is the bucket of an order's id; a stream by another name has 0.
func bucketOf(stream string) int { return orderid.ID(event.SubjectID(stream)).Bucket() }

func buyerBucket(buyer string) int { return orderid.Bucket(buyer) }

// A row is a document as it is written.
type row struct {
	stream   string
	revision event.Revision
	body     []byte
	buyer    string
	entry    string // in the buyer's list; "" if it is in none
}

func encode(doc projections.Doc[projections.Order]) (row, error) {
	r := row{stream: doc.Stream, revision: doc.Revision}
	if doc.Revision == 0 {
		return r, nil // there is none
	}
	var err error
	if r.body, err = json.Marshal(doc.Body); err != nil {
		return r, fmt.Errorf("encode %s for buyers: %w", doc.Stream, err)
	}
	if f, placed := doc.Body.Facts(); placed && doc.Stream == streamFor(f.ID) {
		r.buyer, r.entry = f.Buyer, entry(f.PlacedAt, f.ID)
	}
	return r, nil
}

func streamFor(id string) string { return "order-" + id }

const instantDigits = 16

// entry sorts as orders are listed: by when they were placed, then by id.
func entry(at time.Time, id string) string {
	return fmt.Sprintf("%0*x", instantDigits, uint64(at.UnixMicro())^1<<63) + id
}

// entryID is the id of the order that an entry is of.
func entryID(entry string) string { return entry[min(instantDigits, len(entry)):] }

// decode reads a document from its fields r, d and t.
func decode(stream string, fields []any) (doc projections.Doc[projections.Order], trusted, there bool, err error) {
	doc.Stream = stream
	revision, there := fields[0].(string)
	if !there {
		return doc, false, false, nil
	}
	body, _ := fields[1].(string)
	at, err := strconv.ParseUint(revision, 10, 64)
	if err == nil {
		err = json.Unmarshal([]byte(body), &doc.Body)
	}
	doc.Revision = event.Revision(at)
	return doc, fields[2] == nil, true, wrap(err, "decode %s of buyers", stream)
}

// encodeParked writes a record behind what a script needs of it.
func encodeParked(record projections.Parked) string {
	dropped, rest := halves(record)
	return fmt.Sprintf("%d %d %s%s", record.Revision, record.Count, dropped, rest)
}

// halves are why a stream was given up, if it was, as "!", JSON and a new line,
// and the rest of its record. JSON has no new line in it, so a script may take
// the first half from one record to the next.
func halves(record projections.Parked) (dropped, rest string) {
	if record.Dropped != nil {
		text, _ := json.Marshal(record.Dropped) // it has nothing in it that can't be written
		dropped = "!" + string(text) + "\n"
	}
	record.Dropped = nil
	text, _ := json.Marshal(record) // nor has this
	return dropped, string(text)
}

// decodeParked reads a record; "" is known to be none.
func decodeParked(stream, text string) (record projections.Parked, is bool, err error) {
	if text == "" {
		return record, false, nil
	}
	parts := strings.SplitN(text, " ", 3)
	rest := parts[len(parts)-1]
	if dropped, behind, is := strings.Cut(rest, "\n"); is {
		record.Dropped = &projections.Dropped{}
		err, rest = json.Unmarshal([]byte(strings.TrimPrefix(dropped, "!")), record.Dropped), behind
	}
	if err == nil {
		err = json.Unmarshal([]byte(rest), &record)
	}
	return record, err == nil, wrap(err, "decode the parking record of %s in buyers", stream)
}
