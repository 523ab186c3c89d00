package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/caarlos0/env/v11"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"cartwright/infra/esdbnode"
)

// nodeSettings say who may reach a node that runs alone, and how.
type nodeSettings struct {
	Listen        string   `env:"LISTEN"`
	Advertise     string   `env:"ADVERTISE"`
	CertFile      string   `env:"TLS_CERT"`
	KeyFile       string   `env:"TLS_KEY"`
	ClientCA      string   `env:"TLS_CLIENT_CA"`
	Users         []string `env:"USER"`
	PasswordFiles []string `env:"PASSWORD_FILE"`
	Readers       []string `env:"READER"`
	Insecure      bool     `env:"INSECURE"`
}

func newNodeCommand(cfg config) *cobra.Command {
	n, bad := env.ParseAsWithOptions[nodeSettings](env.Options{Prefix: "CARTWRIGHT_NODE_"})
	cmd := &cobra.Command{
		Use:   "node",
		Short: "Run the embedded event log alone",
		Long: `Run the embedded event log alone: for other processes on this machine through
run/node.sock in the data folder, which asks nobody who they are, and by TCP where
--listen says so, for any client of EventStoreDB.

  cartwright node                                                 run/node.sock in ./data
  cartwright node --listen 127.0.0.1:2113                         and esdb://127.0.0.1:2113?tls=false
  cartwright node --listen 0.0.0.0:2113 --tls-cert F --tls-key F --user shop --password-file F

With TLS, callers are users with a password, or with a certificate of an
authority in --tls-client-ca that names them; with that and no --user, every such
certificate will do. Several users are several --user, each with its
--password-file. Certificates are read again for every connection, so they can be
renewed without a restart. An address that others can reach is refused without
TLS and users, unless --insecure says that something else keeps them out.

The commands below look after a log, whether a process runs it (node, serve and
the other parts) or nobody does.`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if bad != nil {
				return usage(fmt.Errorf("environment: %w", bad))
			}
			return runNode(cmd.Context(), cfg, &n, cmd.OutOrStdout())
		},
	}
	cfg.dataFlag(cmd.Flags())
	cmd.Flags().TextVar(&cfg.LogLevel, "log-level", cfg.LogLevel, "debug, info, warn or error (CARTWRIGHT_LOG_LEVEL)")
	cmd.Flags().DurationVar(&cfg.Stop, "stop-within", cfg.Stop, "how long stopping may take (CARTWRIGHT_STOP_WITHIN)")
	n.flags(cmd.Flags())
	cmd.Flags().StringVar(&cfg.Metrics, "metrics", cfg.Metrics, "the address where /metrics is; empty is none (CARTWRIGHT_METRICS)")
	cmd.AddCommand(newNodeTools(cfg)...)
	return cmd
}

func (n *nodeSettings) flags(f *pflag.FlagSet) {
	f.StringVar(&n.Listen, "listen", n.Listen, "host:port to listen on by TCP too (CARTWRIGHT_NODE_LISTEN)")
	f.StringVar(&n.Advertise, "advertise", n.Advertise, "host:port that gossip tells; empty is the one that was reached (CARTWRIGHT_NODE_ADVERTISE)")
	f.StringVar(&n.CertFile, "tls-cert", n.CertFile, "the node's certificate, PEM (CARTWRIGHT_NODE_TLS_CERT)")
	f.StringVar(&n.KeyFile, "tls-key", n.KeyFile, "its key, PEM (CARTWRIGHT_NODE_TLS_KEY)")
	f.StringVar(&n.ClientCA, "tls-client-ca", n.ClientCA, "who vouches for users' certificates, PEM (CARTWRIGHT_NODE_TLS_CLIENT_CA)")
	f.StringArrayVar(&n.Users, "user", n.Users, "a user, with --password-file (CARTWRIGHT_NODE_USER, by commas)")
	f.StringArrayVar(&n.PasswordFiles, "password-file", n.PasswordFiles, "the file with that user's password (CARTWRIGHT_NODE_PASSWORD_FILE)")
	f.StringArrayVar(&n.Readers, "reader", n.Readers, "a user who may only read (CARTWRIGHT_NODE_READER)")
	f.BoolVar(&n.Insecure, "insecure", n.Insecure, "let everybody in who can reach the address (CARTWRIGHT_NODE_INSECURE)")
}

// door is how callers by TCP are let in. What makes no sense is told before
// anything is opened.
func (n *nodeSettings) door() (esdbnode.Door, error) {
	d := esdbnode.Door{ReadOnly: n.Readers, Advertise: n.Advertise}
	switch {
	case n.Listen == "" && (n.CertFile != "" || n.ClientCA != "" || len(n.Users) > 0 || n.Advertise != ""):
		return d, errors.New("these settings are for callers by TCP: where do I --listen?")
	case (n.CertFile == "") != (n.KeyFile == ""):
		return d, errors.New("--tls-cert goes with --tls-key")
	case n.CertFile == "" && (n.ClientCA != "" || len(n.Users) > 0):
		return d, errors.New("users and their certificates need TLS: --tls-cert and --tls-key")
	case len(n.Users) != len(n.PasswordFiles):
		return d, fmt.Errorf("%d users and %d files with passwords: each --user has a --password-file", len(n.Users), len(n.PasswordFiles))
	case n.Listen != "" && !loopback(n.Listen) && !n.Insecure && (n.CertFile == "" || len(n.Users) == 0 && n.ClientCA == ""):
		return d, fmt.Errorf("others can reach %s: it takes TLS, and users or their certificates; or --insecure", n.Listen)
	}
	if err := n.readUsers(&d); err != nil {
		return d, err
	}
	if err := n.readCertificates(&d); err != nil {
		return d, err
	}
	return d, d.Check()
}

func (n *nodeSettings) readUsers(d *esdbnode.Door) error {
	d.Users = map[string]string{}
	for i, user := range n.Users {
		password, err := secret("", n.PasswordFiles[i])
		if err != nil {
			return fmt.Errorf("password of %s: %w", user, err)
		}
		if _, twice := d.Users[user]; twice {
			return fmt.Errorf("user %s is there twice", user)
		}
		if password == "" {
			return fmt.Errorf("password of %s: %s is empty", user, n.PasswordFiles[i])
		}
		d.Users[user] = password
	}
	return nil
}

func (n *nodeSettings) readCertificates(d *esdbnode.Door) error {
	if n.CertFile == "" {
		return nil
	}
	if _, err := tls.LoadX509KeyPair(n.CertFile, n.KeyFile); err != nil {
		return fmt.Errorf("the node's certificate: %w", err)
	}
	d.TLS = &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(n.CertFile, n.KeyFile)
			return &pair, err
		},
	}
	if n.ClientCA == "" {
		return nil
	}
	pem, err := os.ReadFile(n.ClientCA)
	if err != nil {
		return fmt.Errorf("who vouches for users: %w", err)
	}
	d.TLS.ClientCAs = x509.NewCertPool()
	if !d.TLS.ClientCAs.AppendCertsFromPEM(pem) {
		return fmt.Errorf("who vouches for users: there is no certificate in %s", n.ClientCA)
	}
	return nil
}

// runNode runs until ctx ends or listening fails: it stops listening, lets calls
// end, and closes the log.
func runNode(ctx context.Context, cfg config, n *nodeSettings, out io.Writer) (err error) {
	door, err := n.door()
	if err != nil {
		return usage(err)
	}
	if cfg.Data == "" || cfg.Stop <= 0 {
		return usage(errors.New("a data folder is needed, and stop-within is positive"))
	}
	calmCollector()
	s := &system{cfg: cfg, log: cfg.logger()}
	s.cfg.EventStore = "" // a node is what that would name
	if s.folder, err = ownSoon(ctx, cfg.Data); err != nil {
		return err
	}
	s.opened(func(context.Context) error { return s.folder.Close() })
	running, stop := context.WithCancel(ctx)
	defer stop()
	g, gctx := errgroup.WithContext(running)
	if err = s.startNode(gctx, g, n.Listen, door, out); err != nil {
		stop() // what was started before
	}
	g.Go(func() error {
		<-gctx.Done()
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cfg.Stop)
		defer cancel()
		return s.close(cctx)
	})
	return errors.Join(err, g.Wait())
}

func (s *system) startNode(ctx context.Context, g *errgroup.Group, address string, door esdbnode.Door, out io.Writer) (err error) {
	if s.store, err = openLog(ctx, s.cfg, s.folder, s.log); err != nil {
		return err
	}
	s.opened(s.store.close)
	if err = s.eraseAgain(ctx); err != nil {
		return err
	}
	r := &running{system: s, part: part{name: "node"}}
	if err = r.startMetrics(ctx, g); err != nil {
		return err
	}
	if err = r.startAdmin(ctx, g); err != nil {
		return err
	}
	where := ""
	if address != "" {
		var l net.Listener
		if l, err = new(net.ListenConfig).Listen(ctx, "tcp", address); err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		g.Go(func() error { return s.store.node.ServeThrough(l, door) })
		where = "esdb://" + l.Addr().String()
		if door.TLS == nil {
			where += "?tls=false"
		}
		where += " "
	}
	_, err = fmt.Fprintf(out, "cartwright node is ready: %sdata %s\n", where, s.cfg.Data)
	return err
}

// A log of this machine that is nobody's at the moment, or another process's,
// through its socket.
type openedLog struct {
	*eventLog
	close func(context.Context) error
}

// openFolderLog opens the log in a data folder, or reaches it through the
// process that owns the folder. A folder without a log is an error, and not made.
func openFolderLog(ctx context.Context, cfg config, data string) (*openedLog, error) {
	if _, err := os.Stat(filepath.Join(data, "eventstore", "FORMAT")); err != nil {
		return nil, fmt.Errorf("there is no event log in %s: %w", data, err)
	}
	cfg.Data, cfg.EventStore = data, ""
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	l, done, err := visitLog(ctx, cfg, cfg.logger())
	if err != nil {
		return nil, err
	}
	return &openedLog{l, done}, nil
}
