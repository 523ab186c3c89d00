package elasticviews

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
)

// A ref names a document, in an index of its own or in that of the request.
type ref struct {
	Index   string `json:"_index,omitempty"`
	ID      string `json:"_id"`
	Routing string `json:"routing,omitempty"`
}

// A found document, or that there is none.
type found struct {
	Index   string          `json:"_index"`
	ID      string          `json:"_id"`
	Found   bool            `json:"found"`
	Version int64           `json:"_version"`
	Seq     int64           `json:"_seq_no"`
	Term    int64           `json:"_primary_term"`
	Source  json.RawMessage `json:"_source"`
	Error   *failure        `json:"error"`
}

// atOnce is how many documents are asked for, or listed, in one request.
const atOnce = 1000

// documents reads documents by their ids, as they are now: in one request, so
// that all are of one moment of the cluster's aliases. An index that was just
// made, or whose shard is moving, has no shard to ask for a moment: the answer
// says so for each document, and the request is made again.
//
// Source is how much of each is given: bare, entire, or the fields named.
func (c *client) documents(ctx context.Context, index string, refs []ref, source string) (docs []found, err error) {
	path := "/_mget"
	if index != "" {
		path = "/" + index + path
	}
	r, err := post(path, map[string]any{"docs": refs})
	if err != nil {
		return nil, err
	}
	r = r.with("_source", source)
	err = c.patient(ctx, func() error {
		docs, err = c.documentsOnce(ctx, r, len(refs))
		return err
	})
	return docs, err
}

const (
	bare   = "false"
	entire = "true"
)

func (c *client) documentsOnce(ctx context.Context, r request, n int) ([]found, error) {
	answer, err := one[struct {
		Docs []found `json:"docs"`
	}](ctx, c, r)
	if err != nil {
		return nil, err
	}
	if len(answer.Docs) != n {
		return nil, fmt.Errorf("the answer has %d of %d documents", len(answer.Docs), n)
	}
	for _, doc := range answer.Docs {
		switch {
		case doc.Error == nil:
		case doc.Error.Type == noIndex:
			return nil, &answerError{404, noIndex, doc.Error.Reason}
		default:
			return nil, fmt.Errorf("read %s: %s: %s", doc.ID, doc.Error.Type, c.shown(doc.Error.Reason))
		}
	}
	return answer.Docs, nil
}

// A search asks an index, or a moment of it, for documents in an order.
type search struct {
	Index   string `json:"-"` // empty for a moment
	Routing string `json:"-"`

	Query  any            `json:"query,omitempty"`
	Sort   []any          `json:"sort,omitempty"`
	After  []any          `json:"search_after,omitempty"`
	Size   int            `json:"size"`
	Source bool           `json:"_source"`
	Whole  bool           `json:"version,omitempty"` // with versions and sequence numbers
	Seq    bool           `json:"seq_no_primary_term,omitempty"`
	Total  bool           `json:"track_total_hits"`
	Aggs   map[string]any `json:"aggs,omitempty"`
	Moment *moment        `json:"pit,omitempty"`
}

// A moment is a point in time of an index, kept by the server.
type moment struct {
	ID    string `json:"id"`
	Alive string `json:"keep_alive"`
}

// A hit is a document that was searched for.
type hit struct {
	found
	Sort []json.RawMessage `json:"sort"`
}

type searchAnswer struct {
	Moment string `json:"pit_id"`
	Hits   struct {
		Hits []hit `json:"hits"`
	} `json:"hits"`
	Aggs map[string]json.RawMessage `json:"aggregations"`
}

func (c *client) search(ctx context.Context, s search) (searchAnswer, error) {
	path := "/_search"
	if s.Moment == nil {
		path = "/" + s.Index + "/_search"
	}
	r, err := post(path, s)
	if err != nil {
		return searchAnswer{}, err
	}
	// Half an answer would be taken for a whole one.
	r = r.with("allow_partial_search_results", "false")
	if s.Routing != "" && s.Moment == nil {
		r = r.with("routing", s.Routing)
	}
	return ask[searchAnswer](ctx, c, r)
}

// list gives the first hits of a search, however many are wanted.
func (c *client) list(ctx context.Context, s search, limit int) ([]hit, error) {
	var hits []hit
	for len(hits) < limit {
		s.Size = min(limit-len(hits), atOnce)
		answer, err := c.search(ctx, s)
		if err != nil {
			return nil, err
		}
		hits = append(hits, answer.Hits.Hits...)
		if len(answer.Hits.Hits) < s.Size {
			break
		}
		s.After = s.After[:0:0]
		for _, value := range hits[len(hits)-1].Sort {
			s.After = append(s.After, value)
		}
	}
	return hits, nil
}

// pages calls take with all documents that a query finds, as they were when it
// began, so many at once and in no order.
func (c *client) pages(ctx context.Context, index string, query any, size int, take func([]hit) error) error {
	m, err := c.stay(ctx, index, "")
	if err != nil {
		return err
	}
	defer func() { _ = c.leave(context.WithoutCancel(ctx), m) }() // it ends by itself, later
	s := search{Moment: m, Query: query, Sort: []any{by("_shard_doc", "asc")}, Size: size, Source: true, Whole: true}
	for {
		answer, err := c.search(ctx, s)
		if err != nil {
			return err
		}
		hits := answer.Hits.Hits
		if len(hits) == 0 {
			return nil
		}
		if err := take(hits); err != nil || len(hits) < size {
			return err
		}
		s.After = s.After[:0:0]
		for _, value := range hits[len(hits)-1].Sort {
			s.After = append(s.After, value)
		}
	}
}

// stay opens a moment of an index, to search it several times as it is now.
func (c *client) stay(ctx context.Context, index, routing string) (*moment, error) {
	r := request{method: "POST", path: "/" + index + "/_pit"}.with("keep_alive", momentAlive)
	if routing != "" {
		r = r.with("routing", routing)
	}
	answer, err := ask[struct {
		ID string `json:"id"`
	}](ctx, c, r)
	return &moment{answer.ID, momentAlive}, err
}

// momentAlive is how long a moment stays after it was last asked.
const momentAlive = "2m"

// leave gives a moment up. The server does by itself what fails here, later.
func (c *client) leave(ctx context.Context, m *moment) error {
	r, err := withBody("DELETE", "/_pit", map[string]string{"id": m.ID})
	if err != nil {
		return err
	}
	_, err = ask[json.RawMessage](ctx, c, r)
	return err
}

// number reads a value that a search is sorted by.
func number(raw json.RawMessage) (int64, error) { return strconv.ParseInt(string(raw), 10, 64) }

// The parts of queries.

func term(field string, value any) any {
	return map[string]any{"term": map[string]any{field: value}}
}

func within(field, bound string, value any) any {
	return map[string]any{"range": map[string]any{field: map[string]any{bound: value}}}
}

// streams are all documents that are a stream's, and none of those that park one.
func streams() any { return map[string]any{"exists": map[string]any{"field": "stream"}} }

func all(filters ...any) any { return map[string]any{"bool": map[string]any{"filter": filters}} }

func by(field, direction string) any { return map[string]any{field: direction} }

func none(filters ...any) any { return map[string]any{"bool": map[string]any{"must_not": filters}} }
