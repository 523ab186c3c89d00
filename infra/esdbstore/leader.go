package esdbstore

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/gossip"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/serverfeatures"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

var errNoLeader = errors.New("the cluster has no leader at the moment")

// reach connects to the node that takes appends: the one in this process, the one
// whose address it was given, or the one that leads, if it has to ask. It does not
// wait for a node that is away.
func (b *batch) reach(ctx context.Context) (_ Caller, hangUp func(), err error) {
	if b.node != nil {
		return b.node, func() {}, nil
	}
	conn, err := b.connect(ctx)
	if err != nil {
		return nil, nil, err
	}
	return conn, func() { _ = conn.Close() }, nil // it fails only if it was closed before
}

func (b *batch) connect(ctx context.Context) (*grpc.ClientConn, error) {
	address, err := b.hint, error(nil)
	if b.hint = ""; address == "" {
		address, err = b.find(ctx)
	}
	if err != nil {
		return nil, err
	}
	conn, err := dial(b.config, address)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", address, err)
	}
	if err := b.checkFeatures(ctx, conn); err != nil {
		return nil, errors.Join(fmt.Errorf("connect to %s: %w", address, err), conn.Close())
	}
	return conn, nil
}

// find finds the address of the node to append to.
func (b *batch) find(ctx context.Context) (address string, err error) {
	var seeds []string
	for _, seed := range b.config.GossipSeeds {
		seeds = append(seeds, seed.String())
	}
	switch {
	case len(seeds) > 0:
		rand.Shuffle(len(seeds), func(i, j int) { seeds[i], seeds[j] = seeds[j], seeds[i] }) //nolint:gosec // not a secret
	case b.config.DnsDiscover:
		seeds = []string{b.config.Address}
	default:
		return b.config.Address, nil
	}
	var failed []error
	for _, seed := range seeds {
		if address, err = b.askLeader(ctx, seed); err == nil {
			return address, nil
		}
		failed = append(failed, fmt.Errorf("ask %s for the leader: %w", seed, err))
	}
	return "", errors.Join(failed...)
}

func (b *batch) askLeader(ctx context.Context, seed string) (address string, err error) {
	conn, err := dial(b.config, seed)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := b.briefly(ctx)
	defer cancel()
	cluster, err := gossip.NewGossipClient(conn).Read(ctx, &shared.Empty{})
	if err != nil {
		return "", err
	}
	for _, m := range cluster.GetMembers() {
		if at := m.GetHttpEndPoint(); m.GetIsAlive() && m.GetState() == gossip.MemberInfo_Leader {
			return net.JoinHostPort(at.GetAddress(), strconv.FormatUint(uint64(at.GetPort()), 10)), nil
		}
	}
	return "", errNoLeader
}

// briefly is how long the client waits for such an answer too.
func (b *batch) briefly(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, time.Duration(b.config.GossipTimeout)*time.Second)
}

// checkFeatures asks whether there is a call to open. A server that can't be
// asked is too old to have one.
func (b *batch) checkFeatures(ctx context.Context, conn *grpc.ClientConn) error {
	ctx, cancel := b.briefly(ctx)
	defer cancel()
	can, err := serverfeatures.NewServerFeaturesClient(conn).GetSupportedMethods(ctx, &shared.Empty{})
	if c := status.Code(err); c == codes.Unimplemented || c == codes.NotFound {
		return fmt.Errorf("%w: %w", errNoBatch, err)
	}
	if err != nil {
		return err
	}
	for _, m := range can.GetMethods() {
		if m.GetServiceName() == "event_store.client.streams.streams" && m.GetMethodName() == "batchappend" {
			return nil
		}
	}
	return errNoBatch
}

// leaderHint finds, in what a node says that does not lead, which one does.
func leaderHint(said metadata.MD) (address string) {
	what, host, port := said.Get("exception"), said.Get("leader-endpoint-host"), said.Get("leader-endpoint-port")
	if len(what) == 0 || what[0] != "not-leader" || len(host) == 0 || len(port) == 0 {
		return ""
	}
	return net.JoinHostPort(host[0], port[0])
}

// batchWindow is how many bytes of answers may be on their way. That it is said
// beforehand spares the pings by which gRPC would find out.
const batchWindow = 1 << 20

// dial makes a connection as the client makes its own, but with larger buffers:
// what many callers append leaves in few packets.
func dial(config *esdb.Configuration, address string) (*grpc.ClientConn, error) {
	secure := insecure.NewCredentials()
	if !config.DisableTLS {
		trust := &tls.Config{
			RootCAs: config.RootCAs, InsecureSkipVerify: config.SkipCertificateVerification, //nolint:gosec // as the operator wants it
			MinVersion: tls.VersionTLS12,
		}
		if config.UserCertFile != "" { // read again each time: it may have been renewed
			pair, err := tls.LoadX509KeyPair(config.UserCertFile, config.UserKeyFile)
			if err != nil {
				return nil, fmt.Errorf("user's certificate: %w", err)
			}
			trust.Certificates = []tls.Certificate{pair}
		}
		secure = credentials.NewTLS(trust)
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(secure),
		grpc.WithWriteBufferSize(128 << 10), grpc.WithReadBufferSize(128 << 10),
		grpc.WithStaticStreamWindowSize(batchWindow), grpc.WithStaticConnWindowSize(batchWindow),
	}
	if config.KeepAliveInterval >= 0 {
		options = append(options, grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: config.KeepAliveInterval, Timeout: config.KeepAliveTimeout, PermitWithoutStream: true,
		}))
	}
	return grpc.NewClient(address, options...)
}

// basicAuth says who we are, over TLS only.
type basicAuth struct{ user, password string }

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (a basicAuth) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	said := base64.StdEncoding.EncodeToString([]byte(a.user + ":" + a.password))
	return map[string]string{"authorization": "Basic " + said}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (basicAuth) RequireTransportSecurity() bool { return true }
