package esdbnode_test

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/gossip"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/serverfeatures"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"cartwright/infra/esdbnode"
	"cartwright/infra/tlstest"
)

// through runs a node that is also reached by TCP, through a door, and gives
// the address.
func through(t *testing.T, d esdbnode.Door) (r *running, address string) {
	t.Helper()
	r = start(t, esdbnode.Options{})
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- r.node.ServeThrough(listener, d) }()
	t.Cleanup(func() {
		r.stop()
		if err := <-served; err != nil {
			t.Errorf("serve by TCP: %v", err)
		}
	})
	return r, listener.Addr().String()
}

// official gives the official client for a connection string.
func official(t *testing.T, uri string) *esdb.Client {
	t.Helper()
	config, err := esdb.ParseConnectionString(uri)
	if err != nil {
		t.Fatal(err)
	}
	config.Logger = esdb.NoopLogging()
	client, err := esdb.NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// tryAll makes one call of every kind, and gives the code of each.
func tryAll(t *testing.T, client *esdb.Client, stream string) map[string]esdb.ErrorCode {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, appended := client.AppendToStream(ctx, stream, esdb.AppendToStreamOptions{}, fresh("a", "b", "c")...)
	_, read := readAll(ctx, client, stream, esdb.ReadStreamOptions{}, 9)
	_, logged := log(ctx, client, esdb.ReadAllOptions{})
	sub, followed := client.SubscribeToAll(ctx, esdb.SubscribeToAllOptions{})
	if followed == nil {
		_ = sub.Close()
	}
	_, deleted := client.DeleteStream(ctx, stream, esdb.DeleteStreamOptions{})
	_, ended := client.TombstoneStream(ctx, stream, esdb.TombstoneStreamOptions{})
	codes := map[string]esdb.ErrorCode{}
	for call, err := range map[string]error{"append": appended, "read": read, "read all": logged, "follow": followed, "delete": deleted, "tombstone": ended} {
		if codes[call] = -1; err != nil {
			codes[call] = codeOf(err)
		}
	}
	return codes
}

func TestOnlyUsersAreLetIn(t *testing.T) {
	ca := tlstest.New(t)
	node, address := through(t, esdbnode.Door{
		TLS: ca.ServerConfig(), Users: map[string]string{"admin": "changeit", "report": "look:only"}, ReadOnly: []string{"report"},
	})
	known, stranger, report := ca.User("admin"), ca.User("mallory"), ca.User("report")
	const fine, unknown, denied = esdb.ErrorCode(-1), esdb.ErrorCodeUnauthenticated, esdb.ErrorCodeAccessDenied
	secure := "?tlsCAFile=" + ca.CAFile
	cert := func(p tlstest.Pair) string { return "&userCertFile=" + p.CertFile + "&userKeyFile=" + p.KeyFile }
	for name, c := range map[string]struct {
		uri         string
		read, write esdb.ErrorCode
	}{
		"the right password":                      {"esdb://admin:changeit@" + address + secure, fine, fine},
		"no password":                             {"esdb://" + address + secure, unknown, unknown},
		"a wrong password":                        {"esdb://admin:changed@" + address + secure, unknown, unknown},
		"another user's password":                 {"esdb://admin:look:only@" + address + secure, unknown, unknown},
		"an unknown user":                         {"esdb://root:changeit@" + address + secure, unknown, unknown},
		"a user's certificate":                    {"esdb://" + address + secure + cert(known), fine, fine},
		"a stranger's certificate":                {"esdb://" + address + secure + cert(stranger), unknown, unknown},
		"a stranger's certificate and a password": {"esdb://admin:changeit@" + address + secure + cert(stranger), fine, fine},
		"a user who may only read":                {"esdb://report:look%3Aonly@" + address + secure, fine, denied},
		"a certificate of one who may only read":  {"esdb://" + address + secure + cert(report), fine, denied},
	} {
		t.Run(name, func(t *testing.T) {
			stream := strings.ReplaceAll(name, " ", "-")
			write(t, dial(t, node.uri), stream, 1) // by the socket, which asks nobody
			for call, code := range tryAll(t, official(t, c.uri), stream) {
				want := c.read
				if call == "append" || call == "delete" || call == "tombstone" {
					want = c.write
				}
				if code != want {
					t.Errorf("%s: code %d, want %d", call, code, want)
				}
			}
		})
	}
}

func TestGossipAndFeaturesAreOpenToAll(t *testing.T) {
	ca := tlstest.New(t)
	_, address := through(t, esdbnode.Door{TLS: ca.ServerConfig(), Users: map[string]string{"admin": "changeit"}, Advertise: "node-1.example:2113"})
	conn := secured(t, ca, address)
	info, err := gossip.NewGossipClient(conn).Read(t.Context(), &shared.Empty{})
	if err != nil || len(info.GetMembers()) != 1 {
		t.Fatalf("gossip: %v, %v", info, err)
	}
	if at := info.GetMembers()[0].GetHttpEndPoint(); at.GetAddress() != "node-1.example" || at.GetPort() != 2113 {
		t.Errorf("gossip advertises %v", at)
	}
	if f, err := serverfeatures.NewServerFeaturesClient(conn).GetSupportedMethods(t.Context(), &shared.Empty{}); err != nil || len(f.GetMethods()) == 0 {
		t.Errorf("features: %v, %v", f, err)
	}
}

func secured(t *testing.T, ca *tlstest.Authority, address string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: ca.Pool, MinVersion: tls.VersionTLS12})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// TestCredentialsOfAnotherFormAreWrong sends what the official client would not.
func TestCredentialsOfAnotherFormAreWrong(t *testing.T) {
	ca := tlstest.New(t)
	_, address := through(t, esdbnode.Door{TLS: ca.ServerConfig(), Users: map[string]string{"admin": "changeit"}})
	client := streams.NewStreamsClient(secured(t, ca, address))
	right := base64.StdEncoding.EncodeToString([]byte("admin:changeit"))
	for name, c := range map[string]struct {
		sent []string
		want codes.Code
	}{
		"as it should be":           {[]string{"Basic " + right}, codes.OK},
		"another case":              {[]string{"bAsIc " + right}, codes.OK},
		"another scheme":            {[]string{"Bearer " + right}, codes.Unauthenticated},
		"no scheme":                 {[]string{right}, codes.Unauthenticated},
		"nothing":                   {[]string{""}, codes.Unauthenticated},
		"a scheme and nothing":      {[]string{"Basic "}, codes.Unauthenticated},
		"no base64":                 {[]string{"Basic admin:changeit"}, codes.Unauthenticated},
		"no colon":                  {[]string{"Basic " + base64.StdEncoding.EncodeToString([]byte("admin"))}, codes.Unauthenticated},
		"no user":                   {[]string{"Basic " + base64.StdEncoding.EncodeToString([]byte(":changeit"))}, codes.Unauthenticated},
		"two of which one is right": {[]string{"Basic " + right, "Basic x"}, codes.Unauthenticated},
	} {
		ctx := metadata.NewOutgoingContext(t.Context(), metadata.MD{"authorization": c.sent})
		_, err := client.Tombstone(ctx, &streams.TombstoneReq{Options: &streams.TombstoneReq_Options{
			StreamIdentifier:       &shared.StreamIdentifier{StreamName: []byte("s-" + name)},
			ExpectedStreamRevision: &streams.TombstoneReq_Options_Any{Any: &shared.Empty{}},
		}})
		if status.Code(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestUsersByCertificateAlone(t *testing.T) {
	ca, other := tlstest.New(t), tlstest.New(t)
	_, address := through(t, esdbnode.Door{TLS: ca.ServerConfig(), ReadOnly: []string{"report"}})
	cert := func(p tlstest.Pair) string {
		return "esdb://" + address + "?maxDiscoverAttempts=1&tlsCAFile=" + ca.CAFile + "&userCertFile=" + p.CertFile + "&userKeyFile=" + p.KeyFile
	}
	if codes := tryAll(t, official(t, cert(ca.User("anybody"))), "s"); codes["append"] != -1 || codes["read all"] != -1 {
		t.Errorf("a user: %v", codes)
	}
	if codes := tryAll(t, official(t, cert(ca.User("report"))), "s"); codes["append"] != esdb.ErrorCodeAccessDenied || codes["read all"] != -1 {
		t.Errorf("one who may only read: %v", codes)
	}
	for name, uri := range map[string]string{
		"no certificate":                   "esdb://admin:changeit@" + address + "?maxDiscoverAttempts=1&tlsCAFile=" + ca.CAFile,
		"a certificate of other authority": cert(other.User("anybody")),
	} {
		if _, err := log(t.Context(), official(t, uri), esdb.ReadAllOptions{}); err == nil {
			t.Errorf("%s was let in", name)
		}
	}
}

func TestTheClientRefusesAServerItDoesNotKnow(t *testing.T) {
	ca, other := tlstest.New(t), tlstest.New(t)
	_, address := through(t, esdbnode.Door{TLS: ca.ServerConfig(), Users: map[string]string{"admin": "changeit"}})
	for name, uri := range map[string]string{
		"another authority": "esdb://admin:changeit@" + address + "?maxDiscoverAttempts=1&tlsCAFile=" + other.CAFile,
		"no TLS":            "esdb://" + address + "?maxDiscoverAttempts=1&tls=false",
	} {
		if _, err := log(t.Context(), official(t, uri), esdb.ReadAllOptions{}); err == nil {
			t.Errorf("%s: it was read", name)
		}
	}
	if _, err := log(t.Context(), official(t, "esdb://admin:changeit@"+address+"?tlsVerifyCert=false"), esdb.ReadAllOptions{}); err != nil {
		t.Errorf("without verification: %v", err)
	}
}

// TestABigAppendThatIsRefusedSaysWhy sends more than fits into the buffers of a
// connection, so that the client is still sending when it is refused.
func TestABigAppendThatIsRefusedSaysWhy(t *testing.T) {
	ca := tlstest.New(t)
	_, address := through(t, esdbnode.Door{TLS: ca.ServerConfig(), Users: map[string]string{"admin": "changeit"}})
	client := official(t, "esdb://admin:wrong@"+address+"?tlsCAFile="+ca.CAFile)
	var events []esdb.EventData
	for range 900 {
		e := fresh("x")[0]
		e.Data = []byte(`"` + strings.Repeat("x", 1000) + `"`)
		events = append(events, e)
	}
	for range 5 {
		if _, err := client.AppendToStream(t.Context(), "s", esdb.AppendToStreamOptions{}, events...); codeOf(err) != esdb.ErrorCodeUnauthenticated {
			t.Errorf("got %v", err)
		}
	}
}

func TestADoorThatMakesNoSenseIsRefused(t *testing.T) {
	config := tlstest.New(t).ServerConfig()
	node := start(t, esdbnode.Options{}).node
	for name, d := range map[string]esdbnode.Door{
		"users without TLS":             {Users: map[string]string{"admin": "secret"}},
		"a user without a name":         {TLS: config, Users: map[string]string{"": "secret"}},
		"a user with a colon":           {TLS: config, Users: map[string]string{"a:b": "secret"}},
		"a user without a password":     {TLS: config, Users: map[string]string{"admin": ""}},
		"a reader who is no user":       {TLS: config, Users: map[string]string{"admin": "secret"}, ReadOnly: []string{"report"}},
		"an address without a port":     {Advertise: "node-1"},
		"an address with a port's name": {Advertise: "node-1:http"},
		"an address without a host":     {Advertise: ":2113"},
	} {
		listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if err := node.ServeThrough(listener, d); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
		if err := d.Check(); err == nil {
			t.Errorf("%s: nothing was found", name)
		}
		if err := listener.Close(); err != nil {
			t.Errorf("%s: the listener was closed: %v", name, err)
		}
	}
}

// A town is the gossip of a cluster, as its members tell it.
type town struct {
	gossip.UnimplementedGossipServer
	mu      sync.Mutex
	members []*gossip.MemberInfo
}

func (c *town) Read(context.Context, *shared.Empty) (*gossip.ClusterInfo, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return &gossip.ClusterInfo{Members: c.members}, nil
}

func (c *town) say(addresses []string, leader int, dead ...int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.members = nil
	for i, a := range addresses {
		host, port, _ := net.SplitHostPort(a)
		n := 0
		for _, d := range port {
			n = 10*n + int(d-'0')
		}
		m := &gossip.MemberInfo{State: gossip.MemberInfo_Follower, IsAlive: true, HttpEndPoint: &gossip.EndPoint{Address: host, Port: uint32(n)}}
		if i == leader {
			m.State = gossip.MemberInfo_Leader
		}
		for _, d := range dead {
			m.IsAlive = m.IsAlive && d != i
		}
		c.members = append(c.members, m)
	}
}

// seed answers gossip and nothing else.
func (c *town) seed(t *testing.T) string {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	gossip.RegisterGossipServer(server, c)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Error(err)
		}
	})
	return listener.Addr().String()
}

// nobody is an address at which nobody answers.
func nobody(t *testing.T) string {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().String()
}

// TestTheClientFindsTheLeader lets three nodes pass for a cluster. They share
// nothing, so what was written shows who was taken for the leader.
func TestTheClientFindsTheLeader(t *testing.T) {
	var nodes []*running
	var addresses []string
	for range 3 {
		n, a := through(t, esdbnode.Door{})
		nodes, addresses = append(nodes, n), append(addresses, a)
	}
	cluster := &town{}
	cluster.say(addresses, 1)
	seeds := strings.Join([]string{nobody(t), cluster.seed(t), nobody(t)}, ",")
	client := official(t, "esdb://"+seeds+"?tls=false&gossipTimeout=2&maxDiscoverAttempts=1000000&discoveryInterval=20")
	write(t, client, "s", 3)
	if nodes[0].node.Head() != 0 || nodes[1].node.Head() != 3 || nodes[2].node.Head() != 0 {
		t.Fatalf("the nodes are at %d, %d and %d", nodes[0].node.Head(), nodes[1].node.Head(), nodes[2].node.Head())
	}
	cluster.say(addresses, 2, 1)
	nodes[1].stop()
	for deadline := time.Now().Add(patience); nodes[2].node.Head() == 0; {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		_, _ = client.AppendToStream(ctx, "s", esdb.AppendToStreamOptions{}, fresh("x")...)
		cancel()
		if time.Now().After(deadline) {
			t.Fatal("the client does not find the new leader")
		}
	}
	if nodes[0].node.Head() != 0 {
		t.Error("a follower was written to")
	}
}
