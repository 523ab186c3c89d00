package stripepay

import (
	"slices"
	"sync"
)

// remembered is how many payments' intents are kept: of an hour's rush, in a few
// megabytes.
const remembered = 50_000

// A memory knows the intents of the payments that were seen last.
type memory struct {
	mu      sync.Mutex
	intents map[string][]string // by payment
	order   []string            // of payments, a ring
	next    int
}

func newMemory(size int) *memory {
	return &memory{intents: map[string][]string{}, order: make([]string, size)}
}

func (m *memory) add(payment, intent string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	had, ok := m.intents[payment]
	if slices.Contains(had, intent) {
		return
	}
	if !ok {
		delete(m.intents, m.order[m.next])
		m.order[m.next] = payment
		m.next = (m.next + 1) % len(m.order)
	}
	m.intents[payment] = append(slices.Clip(had), intent)
}

func (m *memory) of(payment string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.intents[payment]
}
