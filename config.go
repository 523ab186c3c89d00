package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"
	"github.com/spf13/pflag"

	"cartwright/commands"
)

// config is where everything is and how it behaves. Each backend is chosen on
// its own; an empty one means the embedded engine in the data folder.
type config struct {
	Data          string        `env:"CARTWRIGHT_DATA" envDefault:"./data"`
	Listen        string        `env:"CARTWRIGHT_LISTEN" envDefault:"127.0.0.1:8080"`
	EventStore    string        `env:"CARTWRIGHT_EVENTSTORE"`
	Kafka         []string      `env:"CARTWRIGHT_KAFKA"`
	Elasticsearch string        `env:"CARTWRIGHT_ELASTICSEARCH"`
	Redis         string        `env:"CARTWRIGHT_REDIS"`
	MasterKey     string        `env:"CARTWRIGHT_MASTER_KEY_FILE"`
	LogLevel      slog.Level    `env:"CARTWRIGHT_LOG_LEVEL" envDefault:"WARN"`
	PayWithin     time.Duration `env:"CARTWRIGHT_PAY_WITHIN"`
	Backdating    bool          `env:"CARTWRIGHT_ALLOW_BACKDATING"`
	Stop          time.Duration `env:"CARTWRIGHT_STOP_WITHIN" envDefault:"20s"`
}

// topic is where events travel; its partitions are for ever, since a stream
// must stay in one.
const (
	topic      = "cartwright.events"
	partitions = 32
)

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
	f.StringVar(&c.MasterKey, "master-key-file", c.MasterKey, "32 bytes that wrap the buyers' keys; empty is master.key in the data folder (CARTWRIGHT_MASTER_KEY_FILE)")
	f.TextVar(&c.LogLevel, "log-level", c.LogLevel, "debug, info, warn or error (CARTWRIGHT_LOG_LEVEL)")
	f.DurationVar(&c.Stop, "stop-within", c.Stop, "how long stopping may take (CARTWRIGHT_STOP_WITHIN)")
}

func (c *config) listenFlag(f *pflag.FlagSet) {
	f.StringVar(&c.Listen, "listen", c.Listen, "the address of the HTTP API (CARTWRIGHT_LISTEN)")
}

func (c *config) writeFlags(f *pflag.FlagSet) {
	f.BoolVar(&c.Backdating, "allow-backdating", c.Backdating, "let requests say by Cartwright-At when they happened, as an import does (CARTWRIGHT_ALLOW_BACKDATING)")
	f.DurationVar(&c.PayWithin, "pay-within", c.PayWithin, "how long a checkout waits for its payment (CARTWRIGHT_PAY_WITHIN)")
}

// check refuses what can't work, before anything is opened.
func (c *config) check() error {
	var errs []error
	if c.Elasticsearch != "" {
		errs = append(errs, errors.New("CARTWRIGHT_ELASTICSEARCH is set, and this version keeps its order index in SQLite only: leave it empty"))
	}
	if c.Redis != "" {
		errs = append(errs, errors.New("CARTWRIGHT_REDIS is set, and this version keeps its documents in Pebble only: leave it empty"))
	}
	if c.Data == "" {
		errs = append(errs, errors.New("a data folder is needed"))
	}
	if c.PayWithin < 0 || c.Stop <= 0 {
		errs = append(errs, errors.New("pay-within and stop-within are positive"))
	}
	return errors.Join(errs...)
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
