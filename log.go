package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"strings"
	"time"

	"cartwright/domain/event"
	"cartwright/infra/esdbnode"
	"cartwright/infra/esdbstore"
)

// An eventLog is the way to the event log: a cluster, another process's node,
// or a node of this process's own.
type eventLog struct {
	*esdbstore.Store
	node    *esdbnode.Node // nil if it is not ours
	serving chan error
}

// openLog connects to the cluster that is configured, or opens the log in the
// folder that this process owns.
func openLog(ctx context.Context, cfg config, f *folder, log *slog.Logger) (*eventLog, error) {
	if cfg.EventStore != "" {
		return connectLog(ctx, cfg, log)
	}
	node, err := esdbnode.Open(esdbnode.Options{Dir: f.path + "/eventstore", Log: log})
	if err != nil {
		return nil, err
	}
	l := &eventLog{node: node, serving: make(chan error, 1)}
	socket, err := f.socket("node.sock")
	if err != nil {
		return nil, errors.Join(err, node.Close(ctx))
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "unix", socket)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: %w", socket, err), node.Close(ctx))
	}
	go func() { l.serving <- node.Serve(listener) }()
	if l.Store, err = esdbstore.Connect(ctx, esdbstore.Config{URI: "unix://" + socket, Node: node}, log); err != nil {
		return nil, errors.Join(err, l.close(ctx))
	}
	return l, nil
}

func connectLog(ctx context.Context, cfg config, log *slog.Logger) (*eventLog, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	where, err := cfg.eventStore()
	if err != nil {
		return nil, err
	}
	store, err := esdbstore.Connect(ctx, where, log)
	if err != nil {
		return nil, err
	}
	return &eventLog{Store: store}, nil
}

// eventStore says where the log is and how to be let in. A socket asks nobody.
func (c *config) eventStore() (esdbstore.Config, error) {
	if strings.HasPrefix(c.EventStore, "unix://") {
		return esdbstore.Config{URI: c.EventStore}, nil
	}
	l := c.EventStoreLogin
	password, err := l.password()
	if err != nil {
		return esdbstore.Config{}, fmt.Errorf("the event store's password: %w", err)
	}
	return esdbstore.Config{
		URI: c.EventStore, User: l.User, Password: password, CAFile: l.CAFile, CertFile: l.CertFile, KeyFile: l.KeyFile,
	}, nil
}

// Head is the position of the last event. The end of the log is asked for many times
// a second; a node of this process's own knows it without a read.
func (l *eventLog) Head(ctx context.Context) (uint64, error) {
	if l.node == nil {
		return l.Store.Head(ctx)
	}
	return l.node.Head(), nil
}

// All implements projections.Source. Of a node of this process's own it reads
// the files, which is some three times as fast as the protocol.
func (l *eventLog) All(ctx context.Context, after uint64, prefixes ...string) iter.Seq2[event.Recorded, error] {
	if l.node == nil {
		return l.Store.All(ctx, after, prefixes...)
	}
	return func(yield func(event.Recorded, error) bool) {
		for e, err := range l.node.Scan(ctx, after, prefixes...) {
			if err != nil {
				yield(event.Recorded{}, fmt.Errorf("read the log after %d: %w", after, err))
				return
			}
			r, ours := esdbstore.Stored{
				Stream: e.Stream, Number: e.Number, Position: e.Position, ID: e.ID, Type: e.Type,
				Meta: []byte(e.Meta), Data: []byte(e.Data), Created: e.Created,
			}.Recorded()
			if ours && !yield(r, nil) {
				return
			}
		}
	}
}

// close closes the client, then the node, which waits for what is under way.
func (l *eventLog) close(ctx context.Context) error {
	var errs []error
	if l.Store != nil {
		errs = append(errs, l.Close())
	}
	if l.node != nil {
		errs = append(errs, l.node.Close(ctx), <-l.serving)
	}
	return errors.Join(errs...)
}

// visitLog opens the log for a tool: the cluster's, the owner's over its
// socket, or the folder's own when nobody owns it.
func visitLog(ctx context.Context, cfg config, log *slog.Logger) (*eventLog, func(context.Context) error, error) {
	if cfg.EventStore != "" {
		l, err := connectLog(ctx, cfg, log)
		return l, closeOf(l), err
	}
	f, err := own(cfg.Data)
	if errors.Is(err, errOwned) {
		socket, serr := ownerSocket(cfg.Data, "node.sock")
		if serr != nil {
			return nil, nil, serr
		}
		cfg.EventStore = "unix://" + socket
		l, cerr := connectLog(ctx, cfg, log)
		return l, closeOf(l), cerr
	}
	if err != nil {
		return nil, nil, err
	}
	l, err := openLog(ctx, cfg, f, log)
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return l, func(ctx context.Context) error { return errors.Join(l.close(ctx), f.Close()) }, nil
}

func closeOf(l *eventLog) func(context.Context) error {
	if l == nil {
		return nil
	}
	return l.close
}
