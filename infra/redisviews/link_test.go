package redisviews_test

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"
)

// How a link is.
type state int

const (
	up     state = iota
	cut          // nobody gets through
	silent       // it takes everything and gives nothing
)

// A link is a way to a server that can be cut.
type link struct {
	listener net.Listener
	to       string
	busy     sync.WaitGroup

	mu    sync.Mutex // guards what follows
	state state
	conns map[net.Conn]bool
	late  *late
}

// late is an answer with some text in it, which does not come yet.
type late struct {
	text   string
	before int           // how many with that text come as they are
	held   chan struct{} // closed when it is there
	free   chan struct{} // closed to let it come
}

// holdBack lets one answer with some text in it come late, after some others.
func (l *link) holdBack(text string, before int) *late {
	held := &late{text: text, before: before, held: make(chan struct{}), free: make(chan struct{})}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.late = held
	return held
}

// pass lets an answer through, or waits until it may come.
func (l *link) pass(answer []byte) {
	if late := l.isLate(answer); late != nil {
		close(late.held)
		<-late.free
	}
}

func (l *link) isLate(answer []byte) *late {
	l.mu.Lock()
	defer l.mu.Unlock()
	late := l.late
	if late == nil || !bytes.Contains(answer, []byte(late.text)) {
		return nil
	}
	if late.before--; late.before >= 0 {
		return nil
	}
	l.late = nil
	return late
}

// An answering link's writer is the near end, for what comes from the far one.
type answering struct {
	link *link
	near net.Conn
}

func (a answering) Write(p []byte) (int, error) {
	a.link.pass(p)
	return a.near.Write(p)
}

func newLink(tb testing.TB, to string) *link {
	tb.Helper()
	listener, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	l := &link{listener: listener, to: to, conns: map[net.Conn]bool{}}
	l.busy.Go(l.accept)
	tb.Cleanup(func() {
		if err := listener.Close(); err != nil {
			tb.Errorf("close a link: %v", err)
		}
		l.become(cut)
		l.busy.Wait()
	})
	return l
}

func (l *link) addr() string { return l.listener.Addr().String() }

// become ends all connections; new ones are as the link is from now on.
func (l *link) become(s state) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state = s
	for conn := range l.conns {
		_ = conn.Close() // whoever uses it drops it
	}
}

func (l *link) accept() {
	for {
		near, err := l.listener.Accept()
		if err != nil {
			return
		}
		l.busy.Go(func() {
			defer l.drop(near)
			l.serve(near)
		})
	}
}

func (l *link) serve(near net.Conn) {
	switch l.admit(near) {
	case cut:
		return
	case silent:
		_, _ = io.Copy(io.Discard, near) // until it is closed
		return
	case up:
	}
	far, err := net.Dial("tcp", l.to) //nolint:noctx // closing the link ends it
	if err != nil {
		return
	}
	defer l.drop(far)
	if l.admit(far) != up {
		return
	}
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(answering{l, near}, far) // until either is closed
		_ = near.Close()
	})
	_, _ = io.Copy(far, near) // likewise
	_ = far.Close()
	back.Wait()
}

// admit takes a connection down and says how the link is.
func (l *link) admit(conn net.Conn) state {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns[conn] = true
	return l.state
}

func (l *link) drop(conn net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, conn)
	_ = conn.Close() // it may be closed already
}
