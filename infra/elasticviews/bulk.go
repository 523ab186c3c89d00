package elasticviews

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"

	"cartwright/projections"
)

// An op is one line of a bulk request with its document.
type op struct {
	action  string // index, create or delete
	index   string
	id      string
	routing string // by id if empty

	version *uint64 // of the stream; nil: the server counts by itself
	same    bool    // over the same version too
	seen    *seen   // only over what was seen

	source []byte
	owner  string // the stream that it belongs to
}

// seen is a document as it was read, for a write that no other may come before.
type seen struct{ seq, term int64 }

// An outcome is what became of an op.
type outcome struct {
	status int
	failure
}

func (o outcome) done() bool     { return o.status < http.StatusMultipleChoices }
func (o outcome) conflict() bool { return o.status == http.StatusConflict }
func (o outcome) gone() bool     { return o.status == http.StatusNotFound && o.Type == noIndex }

func (o outcome) err() error { return &answerError{o.status, o.Type, o.Reason} }

// refused tells an op that fails however often it comes. A closed index answers
// like that too, but then it is not the document's fault.
func (o outcome) refused() bool {
	return (o.status == http.StatusBadRequest || o.status == http.StatusRequestEntityTooLarge) && o.Type != indexClosed
}

// mostOfBulk is how much goes into one request. More makes none faster, and
// costs the server its memory.
const mostOfBulk = 8 << 20

// bulk carries out ops and gives what became of each: none of them has an
// outcome that asks to come later. The order of ops counts within one index and
// routing only.
func (c *client) bulk(ctx context.Context, ops []op) ([]outcome, error) {
	outcomes := make([]outcome, 0, len(ops))
	for chunk := range chunks(ops) {
		some, err := c.chunk(ctx, chunk)
		if err != nil {
			return nil, err
		}
		outcomes = append(outcomes, some...)
	}
	return outcomes, nil
}

// chunks cuts ops into requests.
func chunks(ops []op) func(yield func([]op) bool) {
	return func(yield func([]op) bool) {
		begin, size := 0, 0
		for i, o := range ops {
			n := len(o.source) + len(o.id) + len(o.index) + lineAround
			if size+n > mostOfBulk && i > begin {
				if !yield(ops[begin:i]) {
					return
				}
				begin, size = i, 0
			}
			size += n
		}
		if begin < len(ops) {
			yield(ops[begin:])
		}
	}
}

const lineAround = 128 // what a line has beside names and document

// chunk sends one request, and what of it was turned away again.
func (c *client) chunk(ctx context.Context, ops []op) ([]outcome, error) {
	outcomes := make([]outcome, len(ops))
	pending := make([]int, len(ops))
	for i := range ops {
		pending[i] = i
	}
	err := c.patient(ctx, func() error {
		sent := make([]op, len(pending))
		for i, at := range pending {
			sent[i] = ops[at]
		}
		answers, err := c.send(ctx, sent)
		if err != nil {
			return &finalError{err} // it was patient itself
		}
		for i, at := range pending {
			outcomes[at] = answers[i]
		}
		pending = slices.DeleteFunc(pending, func(at int) bool { return !later(outcomes[at].status) })
		if len(pending) == 0 {
			return nil
		}
		return fmt.Errorf("%d of %d documents: %w", len(pending), len(ops), outcomes[pending[0]].err())
	})
	if final, ok := errors.AsType[*finalError](err); ok {
		return nil, final.error
	}
	return outcomes, err
}

// A finalError is not to be tried again, whatever it is.
type finalError struct{ error }

// send makes one request of ops. A request that the server refuses as a whole
// is sent in halves, down to the one that is to blame.
func (c *client) send(ctx context.Context, ops []op) ([]outcome, error) {
	r := request{method: http.MethodPost, path: "/_bulk", body: lines(ops)}
	r = r.with("filter_path", "errors,items.*.status,items.*.error.type,items.*.error.reason").with("timeout", strconv.FormatInt((c.timeout/2).Milliseconds(), 10)+"ms")
	answer, err := ask[bulkAnswer](ctx, c, r)
	refusal, ok := errors.AsType[*answerError](err)
	switch {
	case ok && outcome{status: refusal.Status}.refused() && len(ops) > 1:
		return c.halves(ctx, ops)
	case ok && outcome{status: refusal.Status}.refused():
		return []outcome{{refusal.Status, failure{refusal.Type, refusal.Reason}}}, nil
	case err != nil:
		return nil, err
	case len(answer.Items) != len(ops):
		return nil, fmt.Errorf("%w: the answer has %d items for %d documents", projections.ErrUnavailable, len(answer.Items), len(ops))
	}
	outcomes := make([]outcome, len(ops))
	for i, item := range answer.Items {
		for _, said := range item {
			outcomes[i] = outcome{said.Status, failure{said.Error.Type, c.shown(said.Error.Reason)}}
		}
		if outcomes[i].status == 0 {
			return nil, fmt.Errorf("%w: the answer does not say what became of %s", projections.ErrUnavailable, ops[i].id)
		}
	}
	return outcomes, nil
}

func (c *client) halves(ctx context.Context, ops []op) ([]outcome, error) {
	first, err := c.send(ctx, ops[:len(ops)/2])
	if err != nil {
		return nil, err
	}
	second, err := c.send(ctx, ops[len(ops)/2:])
	return append(first, second...), err
}

type bulkAnswer struct {
	Items []map[string]struct {
		Status int     `json:"status"`
		Error  failure `json:"error"`
	} `json:"items"`
}

// lines writes the body of a bulk request.
func lines(ops []op) []byte {
	size := 0
	for _, o := range ops {
		size += len(o.source) + len(o.id) + len(o.index) + lineAround
	}
	body := make([]byte, 0, size)
	for _, o := range ops {
		body = append(o.head(body), '\n')
		if o.action != "delete" {
			body = append(append(body, o.source...), '\n')
		}
	}
	return body
}

func (o op) head(to []byte) []byte {
	to = append(to, `{"`+o.action+`":{"_index":"`+o.index+`","_id":`...)
	to = quoted(to, o.id)
	if o.routing != "" {
		to = quoted(append(to, `,"routing":`...), o.routing)
	}
	if o.version != nil {
		to = strconv.AppendUint(append(to, `,"version":`...), *o.version, 10)
		to = append(to, `,"version_type":"external`...)
		if o.same {
			to = append(to, "_gte"...)
		}
		to = append(to, '"')
	}
	if o.seen != nil {
		to = strconv.AppendInt(append(to, `,"if_seq_no":`...), o.seen.seq, 10)
		to = strconv.AppendInt(append(to, `,"if_primary_term":`...), o.seen.term, 10)
	}
	return append(to, "}}"...)
}

func quoted(to []byte, text string) []byte {
	raw, err := json.Marshal(text)
	if err != nil {
		return append(to, `""`...) // no string fails to encode
	}
	return append(to, raw...)
}
