package projections

import "sync"

// recent remembers the documents that were stored last. Whoever takes one owns
// it, so that it may be changed without a copy; it comes back when it is stored.
// Two maps are enough for "last": when the young one is full it becomes the old
// one, and what nobody took from there is forgotten.
type recent[V any] struct {
	mu         sync.Mutex
	young, old map[string]*Doc[V]
}

func (r *recent[V]) take(stream string) (Doc[V], bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	doc, ok := r.young[stream]
	if !ok {
		doc, ok = r.old[stream]
	}
	if !ok {
		return Doc[V]{}, false
	}
	delete(r.young, stream)
	delete(r.old, stream)
	return *doc, true
}

// keep puts a document back. It may be older than one that another batch put
// back meanwhile: then the next event shows a gap, which is healed.
func (r *recent[V]) keep(doc Doc[V], limit int) {
	if limit <= 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.old, doc.Stream)
	if r.young == nil || len(r.young) >= max(1, limit/2) {
		r.young, r.old = map[string]*Doc[V]{}, r.young
	}
	r.young[doc.Stream] = &doc
}
