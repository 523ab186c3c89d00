package esdbnode

import (
	"net"
	"sync"
	"sync/atomic"
)

// strangers are the connections that have not called yet. gRPC waits for those
// that have not even said hello, when it stops, and knows no way to end them: so
// whoever connects and says nothing would keep a node from closing
// (TestConnectionsThatSayNothingStopNobody).
type strangers struct {
	mu     sync.Mutex
	conns  map[*arrival]struct{}
	closed bool
}

func newStrangers() *strangers { return &strangers{conns: map[*arrival]struct{}{}} }

// add takes a connection, and hangs up at once when the node is closing.
func (s *strangers) add(a *arrival) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = a.Conn.Close()
		return
	}
	s.conns[a] = struct{}{}
}

func (s *strangers) remove(a *arrival) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, a)
}

// hangUp ends them all, and those that come later.
func (s *strangers) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for a := range s.conns {
		_ = a.Conn.Close()
	}
	clear(s.conns)
}

// An arrival is a connection on its way through a door.
type arrival struct {
	net.Conn
	guard     *guard
	strangers *strangers
	met       atomic.Bool // it has called
}

// meet is told of every call.
func (a *arrival) meet() {
	if !a.met.Load() && a.met.CompareAndSwap(false, true) {
		a.strangers.remove(a)
	}
}

// Close ends the connection.
func (a *arrival) Close() error {
	a.strangers.remove(a)
	return a.Conn.Close()
}
