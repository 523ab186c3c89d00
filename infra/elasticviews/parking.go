package elasticviews

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"strings"

	"cartwright/projections"
)

// Parking lies among the documents of its generation, under ids of its own. A
// document called marker says that there may be some, so that the usual batch,
// in a view with nothing parked, asks for one id and not for all its streams.
// It is written before the first record and never taken away.
const marker = "parked"

// parkedID gives the id of a stream's record. A stream that is parked because
// its name is too long for an id needs a short one.
func parkedID(stream string) string {
	if len(stream) > longestID {
		digest := sha256.Sum256([]byte(stream))
		stream = "#" + hex.EncodeToString(digest[:])
	}
	return marker + ":" + stream
}

// parkedSource is a record as it is stored.
type parkedSource struct {
	Parked string             `json:"parked"` // what records are listed by
	Record projections.Parked `json:"record"`
}

// Parked gives those of some streams that are parked. Of a live generation that
// is lost none are, as for Get.
func (g *Generation[V]) Parked(ctx context.Context, streams []string) (map[string]projections.Parked, error) {
	parked, err := g.parked(ctx, streams)
	if isLost(err) {
		return map[string]projections.Parked{}, nil
	}
	return parked, err
}

func (g *Generation[V]) parked(ctx context.Context, streams []string) (map[string]projections.Parked, error) {
	parked := map[string]projections.Parked{}
	err := g.reading(ctx, func() error {
		some, err := g.views.db.c.documents(ctx, g.documents(), []ref{{ID: marker}}, bare)
		if err != nil || !some[0].Found || len(streams) == 0 {
			return err
		}
		clear(parked)
		return g.records(ctx, g.documents(), streams, func(record projections.Parked, _ *seen) { parked[record.Stream] = record })
	})
	if err != nil {
		return nil, fmt.Errorf("look for parked streams of %s: %w", g.views.name, err)
	}
	return parked, nil
}

// records calls take with the records there are of some streams.
func (g *Generation[V]) records(ctx context.Context, index string, streams []string, take func(projections.Parked, *seen)) error {
	refs := make([]ref, len(streams))
	for i, stream := range streams {
		refs[i] = ref{ID: parkedID(stream)}
	}
	docs, err := g.views.db.c.inParts(ctx, index, refs, entire)
	if err != nil {
		return err
	}
	for _, doc := range docs {
		if !doc.Found {
			continue
		}
		record, err := unpark(doc)
		if err != nil {
			return err
		}
		take(record, &seen{doc.Seq, doc.Term})
	}
	return nil
}

func unpark(doc found) (projections.Parked, error) {
	var s parkedSource
	if err := json.Unmarshal(doc.Source, &s); err != nil {
		return s.Record, fmt.Errorf("decode the parking record %s: %w", doc.ID, err)
	}
	return s.Record, nil
}

// AllParked gives all records, by stream.
func (g *Generation[V]) AllParked(ctx context.Context) ([]projections.Parked, error) {
	hits, err := g.names(ctx, "parked", "", math.MaxInt, g.target, true)
	if err != nil {
		return nil, fmt.Errorf("read parking records of %s: %w", g.views.name, err)
	}
	var all []projections.Parked
	for _, h := range hits {
		record, err := unpark(h.found)
		if err != nil {
			return nil, err
		}
		all = append(all, record)
	}
	return all, nil
}

// Park parks streams, or says more of those that are.
func (g *Generation[V]) Park(ctx context.Context, records []projections.Parked) error {
	err := g.writing(ctx, func(at indices) error { return g.park(ctx, at.of(g.views.shape.kinds[0].name), records) })
	if err != nil {
		return fmt.Errorf("park %d streams of %s: %w", len(records), g.views.name, err)
	}
	return nil
}

// park writes records over those that they supersede. Where another process
// changes one at the same time, what it wrote is read and compared again.
func (g *Generation[V]) park(ctx context.Context, index string, records []projections.Parked) error {
	if len(records) == 0 {
		return ctx.Err()
	}
	mark := op{action: "create", index: index, id: marker, source: []byte(`{"marker":"parked"}`), owner: marker}
	if outcomes, err := g.views.db.c.bulk(ctx, []op{mark}); err != nil {
		return err
	} else if !outcomes[0].done() && !outcomes[0].conflict() {
		return outcomes[0].err()
	}
	for pause := g.views.db.c.pause; len(records) > 0; pause = min(2*pause, longest) {
		left, err := g.parkSome(ctx, index, records)
		if err != nil {
			return err
		}
		if len(left) > 0 && len(left) == len(records) {
			if err := sleep(ctx, pause); err != nil {
				return err
			}
		}
		records = left
	}
	return nil
}

// parkSome writes at most one record a stream and gives those that are left to do.
func (g *Generation[V]) parkSome(ctx context.Context, index string, records []projections.Parked) (left []projections.Parked, err error) {
	first := map[string]projections.Parked{}
	streams := make([]string, 0, len(records))
	for _, record := range records {
		if _, twice := first[record.Stream]; twice {
			left = append(left, record)
			continue
		}
		first[record.Stream] = record
		streams = append(streams, record.Stream)
	}
	before := map[string]*seen{}
	err = g.records(ctx, index, streams, func(old projections.Parked, at *seen) {
		before[old.Stream] = at
		if !first[old.Stream].Supersedes(old) {
			delete(first, old.Stream)
			return
		}
		first[old.Stream] = first[old.Stream].Onto(old)
	})
	if err != nil {
		return nil, err
	}
	ops, err := parkOps(index, streams, first, before)
	if err != nil || len(ops) == 0 {
		return left, err
	}
	outcomes, err := g.views.db.c.bulk(ctx, ops)
	if err != nil {
		return nil, err
	}
	var again []projections.Parked
	for i, o := range outcomes {
		switch {
		case o.done():
		case o.conflict():
			again = append(again, first[ops[i].owner])
		default:
			return nil, o.err()
		}
	}
	return append(again, left...), nil
}

func parkOps(index string, streams []string, records map[string]projections.Parked, before map[string]*seen) ([]op, error) {
	var ops []op
	for _, stream := range streams {
		record, ok := records[stream]
		if !ok {
			continue
		}
		raw, err := json.Marshal(parkedSource{strings.ToValidUTF8(stream, "\uFFFD"), record})
		if err != nil {
			return nil, fmt.Errorf("encode the record of %s: %w", stream, err)
		}
		o := op{action: "create", index: index, id: parkedID(stream), source: raw, owner: stream}
		if at := before[stream]; at != nil {
			o.action, o.seen = "index", at
		}
		ops = append(ops, o)
	}
	return ops, nil
}

// Unpark forgets records.
func (g *Generation[V]) Unpark(ctx context.Context, streams []string) error {
	err := g.writing(ctx, func(at indices) error {
		ops := make([]op, len(streams))
		for i, stream := range streams {
			ops[i] = op{action: "delete", index: at.of(g.views.shape.kinds[0].name), id: parkedID(stream), owner: stream}
		}
		return g.carryOut(ctx, ops, map[string]error{})
	})
	if err != nil {
		return fmt.Errorf("unpark %d streams of %s: %w", len(streams), g.views.name, err)
	}
	return nil
}
