package kafkabus_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"

	"cartwright/domain/event"
	"cartwright/infra/bustest"
	"cartwright/infra/kafkabus"
	"cartwright/infra/tlstest"
)

// A gate is a broker that one enters by TLS and a login.
type gate struct {
	brokers        []string
	tls            *tls.Config
	user, password string
	guest          string // who has the same password, and no rights
}

func (g gate) config(topic, mechanism string) kafkabus.Config {
	return kafkabus.Config{
		Brokers: g.brokers, Topic: topic, Log: logger(), TLS: g.tls,
		SASL: &kafkabus.SASL{Mechanism: mechanism, User: g.user, Password: g.password},
	}
}

// fake gives a gate without a server.
func fake(t *testing.T) gate {
	t.Helper()
	authority := tlstest.New(t)
	g := gate{tls: &tls.Config{RootCAs: authority.Pool, MinVersion: tls.VersionTLS12}, user: "shop", password: "sesame, open=now", guest: "guest"}
	options := []kfake.Opt{kfake.Ports(0), kfake.EnableSASL(), kfake.EnableACLs(), kfake.TLS(authority.ServerConfig())}
	for _, mechanism := range []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"} {
		options = append(options, kfake.Superuser(mechanism, g.user, g.password), kfake.User(mechanism, g.guest, g.password))
	}
	c, err := kfake.NewCluster(options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	g.brokers = c.ListenAddrs()
	return g
}

func TestLogin(t *testing.T) {
	t.Parallel()
	logins(t, fake(t))
}

// logins checks who gets in, and what the others are told.
func logins(t *testing.T, g gate) {
	t.Helper()
	for _, mechanism := range []string{"", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"} {
		t.Run("who knows the password may publish and read by "+mechanism, func(t *testing.T) {
			t.Parallel()
			mayWork(t, g.config(unique(), mechanism))
		})
	}
	for name, spoil := range map[string]func(*kafkabus.Config){
		"a user without rights": func(c *kafkabus.Config) { c.SASL.User = g.guest },
		"an unknown authority": func(c *kafkabus.Config) {
			c.TLS = &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
		},
		"another server's certificate": func(c *kafkabus.Config) {
			c.TLS = c.TLS.Clone()
			c.TLS.ServerName = "other.example"
		},
	} {
		t.Run(name+" is refused at once", func(t *testing.T) {
			t.Parallel()
			isRefused(t, g, spoil)
		})
	}
	for name, spoil := range map[string]func(*kafkabus.Config){
		"no login":              func(c *kafkabus.Config) { c.SASL = nil },
		"no TLS":                func(c *kafkabus.Config) { c.TLS = nil },
		"neither TLS nor login": func(c *kafkabus.Config) { c.TLS, c.SASL = nil, nil },
	} {
		t.Run(name+" is guessed at", func(t *testing.T) {
			t.Parallel()
			isGuessed(t, g, spoil)
		})
	}
}

// wrongPasswords are what a real broker answers. The embedded one hangs up.
func wrongPasswords(g gate) map[string]func(*kafkabus.Config) {
	wrong := func(mechanism string) func(*kafkabus.Config) {
		return func(c *kafkabus.Config) { c.SASL.Mechanism, c.SASL.Password = mechanism, "x"+g.password }
	}
	return map[string]func(*kafkabus.Config){
		"a wrong password by PLAIN":         wrong("PLAIN"),
		"a wrong password by SCRAM-SHA-256": wrong("SCRAM-SHA-256"),
		"a wrong password by SCRAM-SHA-512": wrong("SCRAM-SHA-512"),
		"an unknown user":                   func(c *kafkabus.Config) { c.SASL.User = "nobody" },
	}
}

func TestAWrongPasswordIsGuessedAt(t *testing.T) {
	t.Parallel()
	g := fake(t)
	for name, spoil := range wrongPasswords(g) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			isGuessed(t, g, spoil)
		})
	}
}

func isRefused(t *testing.T, g gate, spoil func(*kafkabus.Config)) {
	t.Helper()
	c := g.config(unique(), "")
	spoil(&c)
	err := kafkabus.EnsureTopic(t.Context(), c, kafkabus.Layout{Partitions: 1})
	if !errors.Is(err, kafkabus.ErrRefused) {
		t.Errorf("got %v", err)
	}
	keepsSecret(t, g, err)
}

// isGuessed checks that it is waited, as a broker that hangs up may be one that
// goes down, and that what is logged meanwhile names the cause.
func isGuessed(t *testing.T, g gate, spoil func(*kafkabus.Config)) {
	t.Helper()
	c := g.config(unique(), "")
	spoil(&c)
	said := newEar()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c.Log = slog.New(said)
	go func() {
		<-said.warned
		cancel()
	}()
	err := kafkabus.EnsureTopic(ctx, c, kafkabus.Layout{Partitions: 1})
	if err == nil || errors.Is(err, kafkabus.ErrRefused) || !strings.Contains(err.Error(), "perhaps it wants TLS, or another login") {
		t.Errorf("got %v", err)
	}
	keepsSecret(t, g, err)
}

func keepsSecret(t *testing.T, g gate, err error) {
	t.Helper()
	if err != nil && strings.Contains(err.Error(), g.password) {
		t.Errorf("the password is told: %v", err)
	}
}

func mayWork(t *testing.T, c kafkabus.Config) {
	t.Helper()
	b := &bed{Config: c, layout: kafkabus.Layout{Partitions: 4}}
	if err := kafkabus.EnsureTopic(t.Context(), b.config(""), b.layout); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.remove(); err != nil {
			t.Errorf("remove topic: %v", err)
		}
	})
	publish(t, publisher(t, b.config("")), bustest.Events(10, 1, 1)...)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	seen := 0
	err := kafkabus.Batches{Config: b.config("a")}.Run(ctx, func(_ context.Context, batch []event.Recorded) error {
		if seen += len(batch); seen == 10 {
			cancel()
		}
		return nil
	})
	if err != nil || seen != 10 {
		t.Fatalf("%d of 10 events, %v", seen, err)
	}
}

func TestAWrongLoginIsRefusedBeforeItIsTried(t *testing.T) {
	for name, login := range map[string]kafkabus.SASL{
		"no user":              {Password: "x"},
		"no password":          {User: "x"},
		"an unknown mechanism": {Mechanism: "GSSAPI", User: "x", Password: "x"},
	} {
		if _, err := kafkabus.NewPublisher(kafkabus.Config{Brokers: []string{"127.0.0.1:1"}, Topic: topic, SASL: &login}); err == nil {
			t.Errorf("%s: it was accepted", name)
		}
	}
}
