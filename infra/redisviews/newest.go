package redisviews

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"

	"cartwright/projections"
)

// Newest gives a buyer's orders, newest first, behind a cursor if there is one.
// Those behind the newest that are kept here come from the index.
func (b *Buyers) Newest(ctx context.Context, buyer string, limit int, after *projections.Cursor) (projections.OrderPage, error) {
	q := projections.OrderQuery{Buyer: buyer, Limit: limit, After: after}
	page, err := b.newest(ctx, q)
	if b.elsewhere(ctx, err) {
		page, err = b.cfg.Index.Orders(ctx, q)
	}
	return page, wrap(err, "list the newest orders of buyer %s", buyer)
}

// errElsewhere says that the cache can't answer.
var errElsewhere = errors.New("the list is not here, or not so far")

func (b *Buyers) newest(ctx context.Context, q projections.OrderQuery) (projections.OrderPage, error) {
	if q.Buyer == "" || q.Limit < 1 {
		return projections.OrderPage{}, errElsewhere // the index says what is wrong with it
	}
	if err := b.usable(); err != nil {
		return projections.OrderPage{}, err
	}
	var found list
	err := b.settled(ctx, func(l *lineage) (err error) {
		found, err = b.list(ctx, l, q)
		return err
	})
	switch {
	case err != nil:
		return projections.OrderPage{}, err
	case found.mark == unmarked && q.After == nil:
		return b.fillList(ctx, q, found)
	case found.mark == unmarked || found.mark == onlyNewest && len(found.entries) <= q.Limit:
		return projections.OrderPage{}, errElsewhere
	}
	return b.page(ctx, q, found)
}

// What a list is marked as: see the scripts.
const (
	unmarked = iota
	onlyNewest
	whole
)

// A list is part of a buyer's list as it stands, or a token where it can't be
// taken for whole.
type list struct {
	lineage *lineage
	key     string
	mark    int64
	entries []string
	token   string
}

// list reads one entry more than is asked for.
func (b *Buyers) list(ctx context.Context, l *lineage, q projections.OrderQuery) (list, error) {
	found := list{lineage: l, key: b.listKey(l.name(l.Live), q.Buyer)}
	from, plant := "+", token()
	if q.After != nil {
		from, plant = "("+entry(q.After.At, q.After.ID), ""
	}
	var cmd *redis.Cmd
	err := b.exec(ctx, l, func(p redis.Pipeliner) {
		cmd = p.EvalSha(ctx, listScript.Hash(), []string{found.key}, from, q.Limit+1, plant, while.Milliseconds())
	})
	if err != nil {
		return found, err
	}
	said, err := cmd.Slice()
	if err != nil || len(said) != 3 {
		return found, fmt.Errorf("a list answers %v: %w", said, errors.Join(err, errElsewhere))
	}
	found.mark, _ = said[0].(int64)
	found.token, _ = said[1].(string)
	some, _ := said[2].([]any)
	for _, e := range some {
		text, _ := e.(string)
		found.entries = append(found.entries, text)
	}
	return found, nil
}

// page gives the documents of a list. A list that does not say what they say is
// thrown away.
func (b *Buyers) page(ctx context.Context, q projections.OrderQuery, found list) (page projections.OrderPage, err error) {
	entries := found.entries[:min(q.Limit, len(found.entries))]
	streams := make([]string, len(entries))
	for i, e := range entries {
		streams[i] = streamFor(entryID(e))
	}
	docs, err := b.get(ctx, streams)
	if err != nil {
		return page, err
	}
	for i, stream := range streams {
		doc := docs[stream]
		if r, err := encode(doc); err != nil || r.entry != entries[i] || r.buyer != q.Buyer {
			return page, errors.Join(errElsewhere, b.dropList(ctx, found))
		}
		page.Items = append(page.Items, doc)
	}
	if len(found.entries) > q.Limit {
		page.Next = cursor(page.Items[q.Limit-1])
	}
	return page, nil
}

func (b *Buyers) dropList(ctx context.Context, found list) error {
	return b.exec(ctx, found.lineage, func(p redis.Pipeliner) { p.Unlink(ctx, found.key) })
}

func cursor(doc projections.Doc[projections.Order]) *projections.Cursor {
	return &projections.Cursor{At: doc.Body.PlacedAt, ID: doc.Body.State.ID}
}

// fillList answers from the index, with what the cache has that the index does
// not list yet, and lists here what the index has, all of it or the newest. It is
// no loss if that fails: the next one does it.
func (b *Buyers) fillList(ctx context.Context, q projections.OrderQuery, found list) (projections.OrderPage, error) {
	more := q
	more.Limit = max(q.Limit, b.cfg.Newest)
	page, err := b.cfg.Index.Orders(ctx, more)
	if err != nil {
		return page, indexError{err}
	}
	if err := b.markList(ctx, found, page); err != nil && !errors.Is(err, errMoved) {
		b.db.cfg.Log.DebugContext(ctx, "a buyer's list is not cached", "err", err)
	}
	if err := b.join(ctx, q, &page, found); err != nil {
		return page, err
	}
	if len(page.Items) > q.Limit {
		page.Items = page.Items[:q.Limit]
		page.Next = cursor(page.Items[q.Limit-1])
	}
	return page, nil
}

// join brings the index's page up to what the cache has: orders that it does not
// list yet, and those that it lists as they were before.
func (b *Buyers) join(ctx context.Context, q projections.OrderQuery, page *projections.OrderPage, found list) error {
	listed := make(map[string]int, len(page.Items)) // where
	last := ""
	for i, doc := range page.Items {
		last = entry(doc.Body.PlacedAt, doc.Body.State.ID)
		listed[last] = i
	}
	wanted := map[string]bool{}
	var streams []string
	for _, e := range found.entries {
		if page.Next == nil || e >= last {
			wanted[e] = true
			streams = append(streams, streamFor(entryID(e)))
		}
	}
	docs, err := b.get(ctx, streams)
	for _, doc := range docs {
		r, fault := encode(doc)
		if fault != nil || r.buyer != q.Buyer || !wanted[r.entry] {
			continue
		}
		if i, ok := listed[r.entry]; !ok {
			page.Items = append(page.Items, doc)
		} else if doc.Revision > page.Items[i].Revision {
			page.Items[i] = doc
		}
	}
	slices.SortFunc(page.Items, func(x, y projections.Doc[projections.Order]) int {
		return strings.Compare(entry(y.Body.PlacedAt, y.Body.State.ID), entry(x.Body.PlacedAt, x.Body.State.ID))
	})
	return err
}

func (b *Buyers) markList(ctx context.Context, found list, page projections.OrderPage) error {
	args := []any{found.token, b.cfg.Lag.Milliseconds(), flag(page.Next != nil), b.cfg.Newest, b.keep()}
	for _, doc := range page.Items {
		args = append(args, entry(doc.Body.PlacedAt, doc.Body.State.ID))
	}
	return b.exec(ctx, found.lineage, func(p redis.Pipeliner) {
		p.EvalSha(ctx, markScript.Hash(), []string{found.key}, args...)
	})
}
