package main

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/bytedance/sonic"
	"github.com/maypok86/otter/v2"

	"cartwright/commands"
	"cartwright/domain/event"
	"cartwright/infra/kafkabus"
	"cartwright/infra/kafkanode"
	"cartwright/infra/keyring"
	"cartwright/infra/metrics"
	"cartwright/infra/redisviews"
	"cartwright/writeapi"
)

// needs says what a part cannot do without.
type needs struct {
	log, bus, views, shop bool
	keys                  bool // it opens personal data; who has the shop seals it too
	stays                 bool // it is no tool that is done in a moment
}

func (n needs) with(o needs) needs {
	return needs{n.log || o.log, n.bus || o.bus, n.views || o.views, n.shop || o.shop, n.keys || o.keys, n.stays || o.stays}
}

// A system is everything that is open in this process. What a process does not
// need stays nil.
type system struct {
	cfg    config
	log    *slog.Logger
	events *event.Registry
	master []byte

	folder    *folder // nil where another process owns it, or none is needed
	store     *eventLog
	broker    *kafkanode.Node    // nil where the bus is not ours
	shortcut  *kafkabus.Shortcut // nil where broker is
	brokers   []string
	kafkaTLS  *tls.Config
	kafkaSASL *kafkabus.SASL
	bookmark  string         // the name of the relay to this bus
	redis     *redisviews.DB // nil where it is not used
	views     *views
	ring      *keyring.Ring
	shop      *commands.Shop
	channels  map[string]commands.Channel
	listeners map[string]writeapi.Listener
	metrics   *metrics.Metrics                     // nil in tools
	lanes     *laneCounts                          // nil where nothing is decided
	written   *otter.Cache[string, event.Revision] // how far this process has written orders lately; nil where it writes none

	closers []func(context.Context) error // in the order of opening
}

func (s *system) opened(undo func(context.Context) error) { s.closers = append(s.closers, undo) }

// close closes everything in the reverse order of opening.
func (s *system) close(ctx context.Context) error {
	var errs []error
	for _, undo := range slices.Backward(s.closers) {
		errs = append(errs, undo(ctx))
	}
	s.closers = nil
	return errors.Join(errs...)
}

// openSystem opens what is needed, or nothing.
func openSystem(ctx context.Context, cfg config, need needs) (_ *system, err error) {
	if err = cfg.check(); err != nil {
		return nil, usage(err)
	}
	s := &system{cfg: cfg, log: cfg.logger()}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close(context.WithoutCancel(ctx)))
		}
	}()
	if s.events, err = commands.Events(); err != nil {
		return nil, err
	}
	s.events.Unmarshal = readEvent
	for _, step := range []func(context.Context, needs) error{s.openFolder, s.openLog, s.openBus, s.openRedis, s.openViews, s.openShop} {
		if err := step(ctx, need); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// openFolder takes the data folder where something of this process lives in it.
// Where another process has it, this one works through that one's doors, as far
// as there are any. A process whose backends are all elsewhere takes the folder
// if it can, for operators to find it there, and does without if not.
func (s *system) openFolder(ctx context.Context, need needs) error {
	views := need.views && len(s.cfg.Elasticsearch) == 0
	log := need.log && s.cfg.EventStore == ""
	bus := need.bus && len(s.cfg.Kafka) == 0
	take := func(string) (*folder, error) { return own(s.cfg.Data) }
	if need.stays && views {
		take = func(path string) (*folder, error) { return ownSoon(ctx, path) }
	}
	f, err := take(s.cfg.Data)
	if err == nil {
		s.folder = f
		s.opened(func(context.Context) error { return f.Close() })
		return nil
	}
	if !views && !log && !bus {
		s.log.Info("goes without a data folder", "because", err)
		return nil
	}
	if !errors.Is(err, errOwned) {
		return err
	}
	if views {
		return fmt.Errorf("views in Pebble and SQLite belong to one process: stop it, or give this part a folder of its own with --data: %w", err)
	}
	return s.useOwners(log, bus)
}

// useOwners finds the log and the bus of the process that owns the data folder.
func (s *system) useOwners(log, bus bool) error {
	if log {
		socket, err := ownerSocket(s.cfg.Data, "node.sock")
		if err != nil {
			return err
		}
		s.cfg.EventStore = "unix://" + socket
	}
	if bus {
		addr, err := ownerSays(s.cfg.Data, "kafka")
		if err != nil {
			return err
		}
		s.cfg.Kafka, s.bookmark = []string{addr}, embeddedBookmark
	}
	return nil
}

func (s *system) openLog(ctx context.Context, need needs) (err error) {
	if !need.log {
		return nil
	}
	if s.store, err = openLog(ctx, s.cfg, s.folder, s.log); err != nil {
		return err
	}
	s.opened(s.store.close)
	return nil
}

func (s *system) openBus(ctx context.Context, need needs) (err error) {
	if !need.bus {
		return nil
	}
	s.brokers = s.cfg.Kafka
	spread := partitions
	if len(s.brokers) > 0 && s.bookmark == "" {
		err = s.openKafkaLogin()
	} else {
		spread, err = s.embeddedSpread()
	}
	if err != nil {
		return err
	}
	if len(s.brokers) == 0 {
		s.bookmark = embeddedBookmark
		s.broker, err = kafkanode.Open(kafkanode.Options{
			Dir: s.folder.path + "/kafka", Log: s.log, Topic: s.cfg.topic(), Partitions: spread,
		})
		if err != nil {
			return err
		}
		s.opened(func(context.Context) error { return s.broker.Close() })
		s.brokers = []string{s.broker.Addr()}
		s.shortcut = kafkabus.NewShortcut(s.broker.Ends)
		if err = s.folder.write("kafka", s.broker.Addr()); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, serverPatience)
	defer cancel()
	err = kafkabus.EnsureTopic(ctx, s.bus(""), kafkabus.Layout{
		Partitions: spread, Replication: s.cfg.KafkaTopic.Replication, MinInSync: s.cfg.KafkaTopic.MinInSync,
	})
	if err != nil || s.bookmark != "" {
		return err
	}
	// What was relayed is remembered by topic: another one, or the same made anew,
	// is given everything from the beginning.
	id, err := kafkabus.TopicID(ctx, s.bus(""))
	s.bookmark = "kafka-" + id
	return err
}

// embeddedSpread is how many partitions the topic on the bus in the data folder
// has, whoever owns that, or will have.
func (s *system) embeddedSpread() (int, error) {
	have, err := kafkanode.Partitions(s.cfg.path("kafka"), s.cfg.topic())
	return cmp.Or(have, embeddedPartitions), err
}

func (s *system) openKafkaLogin() (err error) {
	l := s.cfg.KafkaLogin
	if s.kafkaTLS, err = l.tls(); err != nil || l.User == "" {
		return err
	}
	password, err := l.password()
	s.kafkaSASL = &kafkabus.SASL{User: l.User, Password: password, Mechanism: s.cfg.KafkaTopic.SASL}
	return err
}

// embeddedBookmark names the relay to the bus in the data folder.
const embeddedBookmark = "kafka"

// bus is how to reach the topic as a member of a group.
func (s *system) bus(group string) kafkabus.Config {
	return kafkabus.Config{Brokers: s.brokers, Topic: s.cfg.topic(), Group: group, TLS: s.kafkaTLS, SASL: s.kafkaSASL, Log: s.log, Shortcut: s.shortcut}
}

func (s *system) openRedis(ctx context.Context, need needs) (err error) {
	if !need.views && !need.shop && s.cfg.RateLimit == 0 {
		return nil
	}
	if s.redis, err = connectRedis(ctx, s.cfg, s.log); err != nil || s.redis == nil {
		return err
	}
	s.opened(func(context.Context) error { return s.redis.Close() })
	return nil
}

func (s *system) openViews(ctx context.Context, need needs) (err error) {
	if !need.views {
		return nil
	}
	v, err := openViews(ctx, s.cfg, s.folder, s.redis, s.log, s.events, s.store)
	if err != nil {
		return err
	}
	s.views = v
	s.opened(func(context.Context) error {
		if err := v.close(); err != nil || !v.kept {
			return err
		}
		return giveLeave(s.folder.path)
	})
	return nil
}

func (s *system) openShop(ctx context.Context, need needs) (err error) {
	if !need.shop && !need.keys {
		return nil
	}
	if err = s.openRing(); err != nil {
		return err
	}
	if err = s.eraseAgain(ctx); err != nil {
		return err
	}
	if !need.shop {
		return nil
	}
	if s.written, err = otter.New(&otter.Options[string, event.Revision]{MaximumSize: ordersNoted}); err != nil {
		return err
	}
	if err = s.openChannels(); err != nil {
		return err
	}
	s.lanes = &laneCounts{}
	setup := commands.Setup{
		Store: countingStore{notingStore{s.store, s.written}, s.lanes}, Snapshots: s.store, Log: s.store, Sealer: s.ring, PayWithin: s.cfg.PayWithin,
		Channels: s.channels, PollAfter: s.cfg.PollAfter, CompleteAfter: s.cfg.Complete, Commission: s.cfg.Commission, Alarm: s.alarm,
	}
	if s.redis != nil {
		setup.Register = register{s.redis.Keys()}
	}
	s.shop, err = commands.Open(setup)
	if err != nil {
		return err
	}
	s.opened(func(context.Context) error { s.shop.Close(); return nil })
	return nil
}

// ordersNoted is how many orders a process knows to have written lately.
const ordersNoted = 50_000

// A notingStore notes how far orders were written, so that the query API of the
// same process shows nobody an older one.
type notingStore struct {
	commands.Store
	written *otter.Cache[string, event.Revision]
}

// Append implements commands.Store.
func (n notingStore) Append(ctx context.Context, stream string, after event.Revision, events []event.Recorded) error {
	err := n.Store.Append(ctx, stream, after, events)
	if err == nil && event.Category(stream) == "order" {
		n.written.Set(stream, after+event.Revision(len(events)))
	}
	return err
}

// newest is how far this process has written a stream lately.
func (s *system) newest(stream string) event.Revision {
	if s.written == nil {
		return 0
	}
	at, _ := s.written.GetIfPresent(stream)
	return at
}

// openRing reads the master key. It is made only where the log is made too, in a
// folder of our own: a log elsewhere has others who need the same key.
func (s *system) openRing() (err error) {
	path, ours := s.cfg.MasterKey, false
	if path == "" {
		path, ours = s.cfg.path("master.key"), s.store.node != nil
	}
	if s.master, err = keyring.MasterKey(path, ours); err != nil {
		return err
	}
	s.ring, err = keyring.New(s.store, s.master)
	return err
}

// secret derives a secret for one purpose from the master key, so that there is
// one thing to keep.
func (s *system) secret(purpose string) []byte {
	mac := hmac.New(sha256.New, s.master)
	_, _ = mac.Write([]byte("cartwright " + purpose))
	return mac.Sum(nil)
}

// readEvent reads what an event says as encoding/json does, in a third of the time.
// What is wrong with it is encoding/json's to say, which quotes nothing of it.
func readEvent(data []byte, into any) error {
	if sonic.ConfigStd.Unmarshal(data, into) == nil {
		return nil
	}
	return json.Unmarshal(data, into)
}
