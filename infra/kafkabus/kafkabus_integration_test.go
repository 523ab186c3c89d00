//go:build integration

package kafkabus_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"os"
	"testing"
	"time"

	"github.com/IBM/sarama"

	"cartwright/infra/bustest"
	"cartwright/infra/kafkabus"
	"cartwright/infra/services"
)

var away = flag.Duration("away", 8*time.Second, "how long a broker stays away in outages")

// plain gives a topic on the Kafka that all tests share.
func plain(tb testing.TB) *bed {
	tb.Helper()
	return on(tb, kafkabus.Config{Brokers: services.Read(tb).Kafka})
}

// secure gives a topic there, by TLS and a login.
func secure(tb testing.TB) *bed {
	tb.Helper()
	e := services.Read(tb)
	return on(tb, kafkabus.Config{Brokers: e.KafkaSecure, TLS: trusting(tb, e.CA), SASL: &kafkabus.SASL{User: e.User, Password: e.Password}})
}

func on(tb testing.TB, c kafkabus.Config) *bed {
	tb.Helper()
	c.Topic, c.Log = unique(), logger()
	b := &bed{Config: c, layout: kafkabus.Layout{Partitions: partitions, Replication: 1, MinInSync: 1}}
	if err := kafkabus.EnsureTopic(tb.Context(), c, b.layout); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := b.remove(); err != nil {
			tb.Errorf("remove topic: %v", err)
		}
	})
	return b
}

func trusting(tb testing.TB, caFile string) *tls.Config {
	tb.Helper()
	pem, err := os.ReadFile(caFile)
	if err != nil {
		tb.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		tb.Fatalf("%s has no certificate", caFile)
	}
	return &tls.Config{RootCAs: pool}
}

func TestConformanceOnKafka(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T) bustest.Bus { t.Helper(); return plain(t).bus(t) })
}

func TestConformanceOnKafkaOverTLS(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T) bustest.Bus { t.Helper(); return secure(t).bus(t) })
}

func TestLoginOnKafka(t *testing.T) {
	t.Parallel()
	e := services.Read(t)
	g := gate{brokers: e.KafkaSecure, tls: trusting(t, e.CA), user: e.User, password: e.Password, guest: "guest"}
	logins(t, g)
	for name, spoil := range wrongPasswords(g) {
		t.Run(name+" is refused at once", func(t *testing.T) {
			t.Parallel()
			isRefused(t, g, spoil)
		})
	}
}

func TestIntegrationsOnKafka(t *testing.T) {
	t.Parallel()
	integrations(t, plain)
}

func TestIntegrationsOnKafkaOverTLS(t *testing.T) {
	t.Parallel()
	integrations(t, secure)
}

// set changes a setting of the topic, as an operator does.
func (b *bed) set(t *testing.T, name, value string) {
	t.Helper()
	admin, err := b.admin()
	if err == nil {
		err = errors.Join(admin.IncrementalAlterConfig(sarama.TopicResource, b.Topic, map[string]sarama.IncrementalAlterConfigsEntry{
			name: {Operation: sarama.IncrementalAlterConfigsOperationSet, Value: &value},
		}, false), admin.Close())
	}
	if err != nil {
		t.Fatalf("set %s: %v", name, err)
	}
}

func TestATopicThatWouldRefuseOurEventsIsRefused(t *testing.T) {
	t.Parallel()
	b := plain(t)
	b.set(t, "max.message.bytes", "1048588")
	if err := kafkabus.EnsureTopic(t.Context(), b.config(""), b.layout); !errors.Is(err, kafkabus.ErrRefused) {
		t.Errorf("a topic that takes less than a batch: %v", err)
	}
	c := b.config("")
	c.Topic = unique()
	if err := kafkabus.EnsureTopic(t.Context(), c, kafkabus.Layout{Partitions: 1, Replication: 3}); !errors.Is(err, kafkabus.ErrRefused) {
		t.Errorf("more copies than there are brokers: %v", err)
	}
}

// Kafka 4 takes the copies that there are.
func TestMoreCopiesInSyncThanThereAreIsOnlyAWarning(t *testing.T) {
	t.Parallel()
	b := plain(t)
	b.set(t, "min.insync.replicas", "2")
	if err := kafkabus.EnsureTopic(t.Context(), b.config(""), b.layout); err != nil {
		t.Error(err)
	}
	publish(t, publisher(t, b.config("")), bustest.Events(50, 3, 1)...)
	lag(t, b, 150)
}

func TestSubscriberOnKafka(t *testing.T) {
	t.Parallel()
	subscribers(t, plain)
}

// TestOutagesOnKafka kills and stops a server of its own.
func TestOutagesOnKafka(t *testing.T) {
	t.Parallel()
	e := services.Start(t, "kafka")
	bustest.Outages(t, *away, func(t *testing.T) bustest.Broker {
		t.Helper()
		return bustest.Broker{
			Bus:    on(t, kafkabus.Config{Brokers: e.Kafka}).bus(t),
			Stop:   func(t *testing.T) { t.Helper(); e.Kill(t, "kafka") },
			Start:  func(t *testing.T) { t.Helper(); e.Restart(t, "kafka") },
			Pause:  func(t *testing.T) { t.Helper(); e.Pause(t, "kafka") },
			Resume: func(t *testing.T) { t.Helper(); e.Resume(t, "kafka") },
		}
	})
}

func BenchmarkPublishOnKafka(b *testing.B) { benchPublish(b, plain) }

func BenchmarkConsumeOnKafka(b *testing.B) { benchConsume(b, plain) }
