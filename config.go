package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"
	"github.com/spf13/pflag"

	"cartwright/commands"
)

// config is where everything is and how it behaves. Each backend is chosen on
// its own; an empty one means the embedded engine in the data folder.
type config struct {
	Data      string `env:"CARTWRIGHT_DATA" envDefault:"./data"`
	Listen    string `env:"CARTWRIGHT_LISTEN" envDefault:"127.0.0.1:8080"`
	Namespace string `env:"CARTWRIGHT_NAMESPACE" envDefault:"cartwright"`

	EventStore      string   `env:"CARTWRIGHT_EVENTSTORE"`
	EventStoreLogin login    `envPrefix:"CARTWRIGHT_EVENTSTORE_"`
	Kafka           []string `env:"CARTWRIGHT_KAFKA"`
	KafkaLogin      login    `envPrefix:"CARTWRIGHT_KAFKA_"`
	KafkaTopic      struct {
		Replication int    `env:"REPLICATION"` // 0: as the brokers do it
		MinInSync   int    `env:"MIN_INSYNC"`
		SASL        string `env:"SASL"` // how to log in: PLAIN if empty
	} `envPrefix:"CARTWRIGHT_KAFKA_"`
	Elasticsearch      []string `env:"CARTWRIGHT_ELASTICSEARCH"`
	ElasticsearchLogin login    `envPrefix:"CARTWRIGHT_ELASTICSEARCH_"`
	ElasticsearchIndex struct {
		APIKey     string `env:"API_KEY"`
		APIKeyFile string `env:"API_KEY_FILE"`
		Shards     int    `env:"SHARDS" envDefault:"1"`
		Replicas   int    `env:"REPLICAS" envDefault:"1"`
	} `envPrefix:"CARTWRIGHT_ELASTICSEARCH_"`
	Redis      []string `env:"CARTWRIGHT_REDIS"`
	RedisLogin login    `envPrefix:"CARTWRIGHT_REDIS_"`
	RedisCache struct {
		Cluster bool          `env:"CLUSTER"`
		Keep    time.Duration `env:"KEEP" envDefault:"2160h"`
	} `envPrefix:"CARTWRIGHT_REDIS_"`

	MasterKey  string        `env:"CARTWRIGHT_MASTER_KEY_FILE"`
	LogLevel   slog.Level    `env:"CARTWRIGHT_LOG_LEVEL" envDefault:"WARN"`
	PayWithin  time.Duration `env:"CARTWRIGHT_PAY_WITHIN"`
	Backdating bool          `env:"CARTWRIGHT_ALLOW_BACKDATING"`
	RateLimit  float64       `env:"CARTWRIGHT_RATE_LIMIT"`
	RateBurst  int           `env:"CARTWRIGHT_RATE_BURST" envDefault:"100"`
	Stop       time.Duration `env:"CARTWRIGHT_STOP_WITHIN" envDefault:"20s"`

	ArchiveAfter time.Duration `env:"CARTWRIGHT_ARCHIVE_AFTER" envDefault:"2160h"` // since an order was closed
	ArchiveEvery time.Duration `env:"CARTWRIGHT_ARCHIVE_EVERY" envDefault:"24h"`   // 0: only when asked
	Erasures     string        `env:"CARTWRIGHT_ERASURES"`
	Channels     channelConfig
	Commission   int64         `env:"CARTWRIGHT_COMMISSION"`                       // basis points
	Complete     time.Duration `env:"CARTWRIGHT_COMPLETE_AFTER" envDefault:"168h"` // since all was delivered; 0 is never
	PollAfter    time.Duration `env:"CARTWRIGHT_POLL_AFTER" envDefault:"1m"`
	Metrics      string        `env:"CARTWRIGHT_METRICS"`
	Pprof        string        `env:"CARTWRIGHT_PPROF"`
}

// A login is how to get into a server. Passwords come from the environment or
// from files, never from a command line, which anybody on the machine can read.
type login struct {
	User         string `env:"USER"`
	Password     string `env:"PASSWORD"`
	PasswordFile string `env:"PASSWORD_FILE"`
	TLS          bool   `env:"TLS"`       // implied by a CA or a certificate
	CAFile       string `env:"CA_FILE"`   // the certificates to trust instead of the system's
	CertFile     string `env:"CERT_FILE"` // what we show, with its key
	KeyFile      string `env:"KEY_FILE"`
}

// partitions are for ever, since a stream must stay in one: so many are made for a
// topic, and one that is there keeps what it has. What the bus costs is by the
// partition as well as by the event, in every request and answer of every group;
// so the bus of one machine has no more than projectors may ever share it there.
const (
	partitions         = 32
	embeddedPartitions = 8
)

// topic is where events travel.
func (c *config) topic() string { return c.Namespace + ".events" }

// The consumer groups are for ever too: their offsets say what was done.
func (c *config) groupViews() string   { return c.Namespace + "-views" }
func (c *config) groupProcess() string { return c.Namespace + "-process" }

// readConfig reads the environment, which flags then override.
func readConfig() (config, error) {
	c, err := env.ParseAs[config]()
	if err != nil {
		return c, fmt.Errorf("environment: %w", err)
	}
	if c.PayWithin == 0 {
		c.PayWithin = commands.PayWithin
	}
	return c, nil
}

func (c *config) dataFlag(f *pflag.FlagSet) {
	f.StringVar(&c.Data, "data", c.Data, "the data folder (CARTWRIGHT_DATA)")
}

func (c *config) backendFlags(f *pflag.FlagSet) {
	c.dataFlag(f)
	f.StringVar(&c.EventStore, "eventstore", c.EventStore, "esdb://… or unix:///path of the event log; empty is embedded (CARTWRIGHT_EVENTSTORE)")
	f.StringSliceVar(&c.Kafka, "kafka", c.Kafka, "host:port of the Kafka brokers; empty is embedded (CARTWRIGHT_KAFKA)")
	f.StringSliceVar(&c.Elasticsearch, "elasticsearch", c.Elasticsearch, "http(s)://host:port of the Elasticsearch nodes; empty is embedded (CARTWRIGHT_ELASTICSEARCH)")
	f.StringSliceVar(&c.Redis, "redis", c.Redis, "host:port of Redis, several for a cluster; empty is embedded (CARTWRIGHT_REDIS)")
	f.StringVar(&c.Namespace, "namespace", c.Namespace, "begins the names of the topic, groups, indices and keys (CARTWRIGHT_NAMESPACE)")
	f.StringVar(&c.MasterKey, "master-key-file", c.MasterKey, "32 bytes that wrap the buyers' keys; empty is master.key in the data folder (CARTWRIGHT_MASTER_KEY_FILE)")
	f.TextVar(&c.LogLevel, "log-level", c.LogLevel, "debug, info, warn or error (CARTWRIGHT_LOG_LEVEL)")
	f.StringVar(&c.Erasures, "erasures", c.Erasures, "the list of erased buyers; empty is erasures.jsonl in the data folder (CARTWRIGHT_ERASURES)")
	f.DurationVar(&c.Stop, "stop-within", c.Stop, "how long stopping may take (CARTWRIGHT_STOP_WITHIN)")
}

// partFlags are those of what stays.
func (c *config) partFlags(f *pflag.FlagSet) {
	f.StringVar(&c.Metrics, "metrics", c.Metrics, "the address where /metrics is; empty is none (CARTWRIGHT_METRICS)")
	f.StringVar(&c.Pprof, "pprof", c.Pprof, "the address of this machine's own where profilers ask, under /debug/pprof/; empty is none (CARTWRIGHT_PPROF)")
}

func (c *config) listenFlag(f *pflag.FlagSet) {
	f.StringVar(&c.Listen, "listen", c.Listen, "the address of the HTTP API (CARTWRIGHT_LISTEN)")
	f.Float64Var(&c.RateLimit, "rate-limit", c.RateLimit, "requests a second of one caller, 0 for no limit (CARTWRIGHT_RATE_LIMIT)")
	f.IntVar(&c.RateBurst, "rate-burst", c.RateBurst, "requests of one caller at once (CARTWRIGHT_RATE_BURST)")
}

func (c *config) writeFlags(f *pflag.FlagSet) {
	f.BoolVar(&c.Backdating, "allow-backdating", c.Backdating, "let requests say by Cartwright-At when they happened, as an import does (CARTWRIGHT_ALLOW_BACKDATING)")
	f.DurationVar(&c.PayWithin, "pay-within", c.PayWithin, "how long a checkout waits for its payment (CARTWRIGHT_PAY_WITHIN)")
}

// check refuses what can't work, before anything is opened.
func (c *config) check() error {
	var errs []error
	if !validNamespace.MatchString(c.Namespace) {
		errs = append(errs, fmt.Errorf("the namespace %q is not up to 40 lower-case letters, digits and dashes, a letter first", c.Namespace))
	}
	for _, l := range []struct {
		name string
		login
	}{
		{"EVENTSTORE", c.EventStoreLogin},
		{"KAFKA", c.KafkaLogin},
		{"ELASTICSEARCH", c.ElasticsearchLogin},
		{"REDIS", c.RedisLogin},
	} {
		if err := l.check(); err != nil {
			errs = append(errs, fmt.Errorf("CARTWRIGHT_%s_…: %w", l.name, err))
		}
	}
	if t := c.KafkaTopic; t.Replication < 0 || t.MinInSync < 0 || t.Replication > 0 && t.MinInSync > t.Replication {
		errs = append(errs, errors.New("CARTWRIGHT_KAFKA_REPLICATION is at least CARTWRIGHT_KAFKA_MIN_INSYNC, and neither is negative"))
	}
	if i := c.ElasticsearchIndex; i.Shards < 1 || i.Replicas < 0 {
		errs = append(errs, errors.New("CARTWRIGHT_ELASTICSEARCH_SHARDS is at least 1, CARTWRIGHT_ELASTICSEARCH_REPLICAS at least 0"))
	}
	if i := c.ElasticsearchIndex; i.APIKey != "" && i.APIKeyFile != "" || i.APIKey+i.APIKeyFile != "" && c.ElasticsearchLogin.User != "" {
		errs = append(errs, errors.New("the login to Elasticsearch is a user with a password, an API key, or a file with one: which?"))
	}
	for _, address := range c.Elasticsearch {
		if u, err := url.Parse(address); err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || u.User != nil {
			errs = append(errs, errors.New("CARTWRIGHT_ELASTICSEARCH is http(s)://host:port, and the login is said apart"))
		}
	}
	if c.RateLimit < 0 || c.RateBurst < 1 || c.RedisCache.Keep < 0 {
		errs = append(errs, errors.New("CARTWRIGHT_RATE_LIMIT and CARTWRIGHT_REDIS_KEEP are not negative, CARTWRIGHT_RATE_BURST is at least 1"))
	}
	if c.Commission < 0 || c.Commission > 10_000 || c.Complete < 0 || c.PollAfter <= 0 {
		errs = append(errs, errors.New("CARTWRIGHT_COMMISSION is 0 to 10000 basis points, CARTWRIGHT_COMPLETE_AFTER not negative, CARTWRIGHT_POLL_AFTER more than nothing"))
	}
	if c.ArchiveAfter <= 0 || c.ArchiveEvery < 0 {
		errs = append(errs, errors.New("CARTWRIGHT_ARCHIVE_AFTER is more than nothing, CARTWRIGHT_ARCHIVE_EVERY is not negative"))
	}
	if c.Pprof != "" && !loopback(c.Pprof) {
		errs = append(errs, errors.New("CARTWRIGHT_PPROF is an address that only this machine reaches, like 127.0.0.1:6060: a profile shows what is in memory"))
	}
	if c.Data == "" {
		errs = append(errs, errors.New("a data folder is needed"))
	}
	if c.PayWithin < 0 || c.Stop <= 0 {
		errs = append(errs, errors.New("pay-within and stop-within are positive"))
	}
	return errors.Join(errs...)
}

// validNamespace is what a topic, an index and a key may all begin with.
var validNamespace = regexp.MustCompile(`^[a-z][a-z0-9-]{0,39}$`)

func (l login) check() error {
	switch {
	case l.Password != "" && l.PasswordFile != "":
		return errors.New("a password and a file with one: which?")
	case (l.Password != "" || l.PasswordFile != "") && l.User == "":
		return errors.New("a password without a user")
	case (l.CertFile == "") != (l.KeyFile == ""):
		return errors.New("a certificate goes with its key")
	}
	return nil
}

// password gives the password, wherever it is.
func (l login) password() (string, error) { return secret(l.Password, l.PasswordFile) }

// secret gives what was said, or what stands in a file.
func secret(said, file string) (string, error) {
	if file == "" {
		return said, nil
	}
	text, err := os.ReadFile(file) //nolint:gosec // the operator names it
	if err != nil {
		return "", err
	}
	return strings.TrimRight(string(text), "\r\n"), nil
}

// tls gives what TLS needs to know, nil where it is not wanted.
func (l login) tls() (*tls.Config, error) {
	if !l.TLS && l.CAFile == "" && l.CertFile == "" {
		return nil, nil //nolint:nilnil // no TLS is an answer
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if l.CAFile != "" {
		pem, err := os.ReadFile(l.CAFile)
		if err != nil {
			return nil, fmt.Errorf("certificates to trust: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("certificates to trust: there is none in %s", l.CAFile)
		}
	}
	if l.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(l.CertFile, l.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("our certificate: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

func (c *config) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: c.LogLevel}))
}

func (c *config) path(names ...string) string {
	return filepath.Join(append([]string{c.Data}, names...)...)
}

// loopback says whether only this machine can reach an address.
func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || (ip != nil && ip.IsLoopback())
}
