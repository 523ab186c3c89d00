package esdbstore

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"google.golang.org/grpc"
)

// Config says where an event log is and how to be let in. All but URI may be
// left empty. What is said both here and in the URI must be the same.
type Config struct {
	// URI is EventStoreDB's own, esdb://host:port,… or esdb+discover://name with
	// its parameters, or unix:///path for a node on a socket, which is trusted.
	URI string

	// A user and a password, which the client sends over TLS only.
	User, Password string

	CAFile            string // the certificates, as PEM, by which the server is known; the system's when empty
	CertFile, KeyFile string // a user's certificate, as PEM: who we are, with or without a password

	// Node is the node at URI, where it is in this process: what there is most of
	// is then asked of it without a connection. Nil: it is in another.
	Node Caller
}

// A Caller opens calls: a connection of gRPC's, or a node in this process.
type Caller interface {
	NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, options ...grpc.CallOption) (grpc.ClientStream, error)
}

// String leaves out the password, and so do all ways to print a Config.
func (c Config) String() string { return redact(c.URI) }

// GoString implements fmt.GoStringer.
func (c Config) GoString() string { return c.String() }

// LogValue implements slog.LogValuer.
func (c Config) LogValue() slog.Value { return slog.StringValue(c.String()) }

// configure makes the client's configuration. None of its errors tells a secret.
func (c Config) configure() (*esdb.Configuration, error) {
	if socket, ok := strings.CutPrefix(c.URI, "unix://"); ok {
		return c.configureSocket(socket)
	}
	bare, user, err := cutUser(c.URI)
	if err != nil {
		return nil, err
	}
	if err = checkKeys(bare); err != nil {
		return nil, fmt.Errorf("%s: %w", bare, err)
	}
	config, err := esdb.ParseConnectionString(bare)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", bare, err)
	}
	// With several hosts the client's parser keeps them as seeds, and then asks
	// none of them if the scheme says "discover": it would look for ever for a
	// node at the empty address.
	if len(config.GossipSeeds) > 0 {
		config.DnsDiscover = false
	}
	for _, set := range []func(*esdb.Configuration, *url.Userinfo) error{c.setUser, c.setTrust, c.setCertificate} {
		if err := set(config, user); err != nil {
			return nil, fmt.Errorf("%s: %w", bare, err)
		}
	}
	return patient(config, bare), nil
}

func (c Config) configureSocket(socket string) (*esdb.Configuration, error) {
	if !strings.HasPrefix(socket, "/") {
		return nil, fmt.Errorf("unix://%s: a socket needs an absolute path", socket)
	}
	if c.User != "" || c.Password != "" || c.CAFile != "" || c.CertFile != "" || c.KeyFile != "" {
		return nil, fmt.Errorf("unix://%s: a socket asks for no user, password or certificate", socket)
	}
	config, err := esdb.ParseConnectionString("esdb://localhost:2113?tls=false") // the parser refuses a socket, the rest of the client does not
	if err != nil {
		return nil, err
	}
	config.Address = "unix://" + socket
	return patient(config, ""), nil
}

// patient keeps the client from giving up, unless the URI wants it.
func patient(config *esdb.Configuration, uri string) *esdb.Configuration {
	if !strings.Contains(strings.ToLower(uri), "maxdiscoverattempts=") {
		config.MaxDiscoverAttempts = discoverAttempts
	}
	return config
}

// cutUser takes user and password out of a URI, before anything that could show
// it in an error has seen it.
func cutUser(uri string) (bare string, user *url.Userinfo, err error) {
	scheme, rest, ok := strings.Cut(uri, "://")
	at := strings.LastIndexByte(rest, '@')
	if !ok || at < 0 {
		return uri, nil, nil
	}
	said := rest[:at]
	bare = scheme + "://" + rest[at+1:]
	u, err := url.Parse("esdb://" + said + "@host")
	if err != nil || u.User == nil || strings.ContainsAny(said, "/?#") {
		return "", nil, fmt.Errorf("%s: what stands before the @ is no user:password; write their special characters as %%XX, or say them apart", redact(uri))
	}
	if u.User.Username() == "" {
		return "", nil, fmt.Errorf("%s: a password without a user", bare)
	}
	return bare, u.User, nil
}

// knownKeys are the parameters the client understands, in lower case. It would
// only log that it does not know another one, and a misspelt tlsVerifyCert is no
// matter for a log.
const knownKeys = " discoveryinterval gossiptimeout maxdiscoverattempts nodepreference keepaliveinterval keepalivetimeout" +
	" tls tlscafile usercertfile userkeyfile tlsverifycert defaultdeadline "

func checkKeys(uri string) error {
	_, query, _ := strings.Cut(uri, "?")
	values, err := url.ParseQuery(query)
	if err != nil {
		return err
	}
	for key, value := range values {
		if !strings.Contains(knownKeys, " "+strings.ToLower(key)+" ") {
			return fmt.Errorf("there is no parameter %s", key)
		}
		if len(value) > 1 {
			return fmt.Errorf("the parameter %s is there twice", key)
		}
	}
	return nil
}

func (c Config) setUser(config *esdb.Configuration, inURI *url.Userinfo) error {
	name, password := inURI.Username(), ""
	if inURI != nil {
		password, _ = inURI.Password()
	}
	var err error
	if config.Username, err = agree("user", name, c.User); err != nil {
		return err
	}
	if config.Password, err = agree("password", password, c.Password); err != nil {
		return err
	}
	switch {
	case (config.Username == "") != (config.Password == ""):
		return errors.New("a user needs a password, and a password a user")
	case config.Username != "" && config.DisableTLS:
		return errors.New("a password is sent over TLS only, and tls=false")
	}
	return nil
}

// agree finds what was said in one of two places. It does not say what that was.
func agree(what, inURI, apart string) (string, error) {
	switch {
	case inURI == "" || inURI == apart:
		return apart, nil
	case apart == "":
		return inURI, nil
	}
	return "", fmt.Errorf("the %s in the address is not the one that is said apart", what)
}

func (c Config) setTrust(config *esdb.Configuration, _ *url.Userinfo) error {
	if c.CAFile == "" {
		return nil
	}
	if config.DisableTLS {
		return errors.New("certificates to trust, and tls=false")
	}
	pem, err := os.ReadFile(c.CAFile)
	if err != nil {
		return fmt.Errorf("certificates to trust: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return fmt.Errorf("certificates to trust: there is none in %s", c.CAFile)
	}
	if config.RootCAs != nil && !config.RootCAs.Equal(roots) {
		return errors.New("the certificates to trust in the address are not those that are said apart")
	}
	config.RootCAs = roots
	return nil
}

// setCertificate also tries the files: the client reads them whenever it
// connects, and would try for ever with what can't be read.
func (c Config) setCertificate(config *esdb.Configuration, _ *url.Userinfo) (err error) {
	if config.UserCertFile, err = agree("certificate", config.UserCertFile, c.CertFile); err != nil {
		return err
	}
	if config.UserKeyFile, err = agree("certificate's key", config.UserKeyFile, c.KeyFile); err != nil {
		return err
	}
	switch {
	case (config.UserCertFile == "") != (config.UserKeyFile == ""):
		return errors.New("a user's certificate goes with its key")
	case config.UserCertFile == "":
		return nil
	case config.DisableTLS:
		return errors.New("a user's certificate, and tls=false")
	}
	if _, err := tls.LoadX509KeyPair(config.UserCertFile, config.UserKeyFile); err != nil {
		return fmt.Errorf("user's certificate: %w", err)
	}
	return nil
}

// redact takes user and password out of a URI that is shown.
func redact(uri string) string {
	scheme, rest, ok := strings.Cut(uri, "://")
	at := strings.LastIndexByte(rest, '@')
	if !ok || at < 0 {
		return uri
	}
	return scheme + "://…@" + rest[at+1:]
}
