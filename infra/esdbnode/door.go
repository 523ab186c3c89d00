package esdbnode

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/gossip"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

// A Door is how one listener lets callers in. Its zero value trusts whoever can
// connect, which is right for a socket that the file system guards.
type Door struct {
	// TLS is what the node shows, and in ClientCAs by whom it knows users'
	// certificates. Without it the connection is plain.
	TLS *tls.Config
	// Users are passwords by user. A caller is one who knows the password, or
	// who shows a certificate with the user as its common name. Without any,
	// whoever gets through TLS is let in. They need TLS, as the official client
	// sends no password without.
	Users map[string]string
	// ReadOnly are users who may read, and change nothing.
	ReadOnly []string
	// Advertise is the host:port that gossip tells. Empty is the address that
	// was reached.
	Advertise string
}

// Check says what is wrong with a door that makes no sense.
func (d Door) Check() error {
	_, err := d.guard(nil)
	return err
}

// A guard stands in a door.
type guard struct {
	creds     credentials.TransportCredentials // nil where the connection is plain
	secret    []byte                           // of this process: what is kept of passwords opens nothing elsewhere
	users     map[string][]byte
	readOnly  map[string]bool
	advertise *gossip.EndPoint // nil for the address that was reached
	log       *slog.Logger
}

func (d Door) guard(log *slog.Logger) (*guard, error) {
	g := &guard{secret: make([]byte, sha256.Size), users: map[string][]byte{}, readOnly: map[string]bool{}, log: log}
	_, _ = rand.Read(g.secret) // it never fails
	for user, password := range d.Users {
		switch {
		case user == "" || strings.Contains(user, ":"):
			return nil, fmt.Errorf("user %q: a name has at least one letter and no colon", user)
		case password == "":
			return nil, fmt.Errorf("user %s has no password", user)
		}
		g.users[user] = g.digest(password)
	}
	for _, user := range d.ReadOnly {
		if _, known := g.users[user]; !known && len(g.users) > 0 {
			return nil, fmt.Errorf("read-only user %s is no user", user)
		}
		g.readOnly[user] = true
	}
	if d.TLS == nil {
		if len(g.users) > 0 {
			return nil, errors.New("users without TLS: clients would send no passwords, or send them for all to read")
		}
	} else {
		g.creds = credentials.NewTLS(d.tls())
	}
	return g, g.setAdvertised(d.Advertise)
}

// tls asks for users' certificates where it was said how to know them: beside
// passwords they are one way of two, and else the only one.
func (d Door) tls() *tls.Config {
	config := d.TLS.Clone()
	if config.ClientCAs != nil && config.ClientAuth == tls.NoClientCert {
		config.ClientAuth = tls.RequireAndVerifyClientCert
		if len(d.Users) > 0 {
			config.ClientAuth = tls.VerifyClientCertIfGiven
		}
	}
	return config
}

func (g *guard) setAdvertised(address string) error {
	if address == "" {
		return nil
	}
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("advertised address: %w", err)
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || host == "" || port == 0 {
		return fmt.Errorf("advertised address %s: it needs a host and the number of a port", address)
	}
	g.advertise = &gossip.EndPoint{Address: host, Port: uint32(port)}
	return nil
}

// digest is what is kept of a password, and what one that is sent is compared by:
// digests have one length, so comparing them takes one time.
func (g *guard) digest(password string) []byte {
	mac := hmac.New(sha256.New, g.secret)
	_, _ = mac.Write([]byte(password))
	return mac.Sum(nil)
}

// An entrance is a listener with its guard. What it accepts carries the guard
// to where gRPC shakes hands.
type entrance struct {
	net.Listener
	guard     *guard
	strangers *strangers
}

func (e entrance) Accept() (net.Conn, error) {
	conn, err := e.Listener.Accept()
	if err != nil {
		return nil, err
	}
	a := &arrival{Conn: conn, guard: e.guard, strangers: e.strangers}
	e.strangers.add(a)
	return a, nil
}

// doorkeeper shakes hands as each connection's door has it. gRPC takes one kind
// of credentials for all listeners of a server; this is that kind.
type doorkeeper struct{}

var errNoClient = errors.New("a node calls nobody")

func (doorkeeper) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	a, ok := conn.(*arrival)
	if !ok {
		return nil, nil, fmt.Errorf("a connection of type %T came through no door", conn)
	}
	if a.guard.creds == nil {
		return a, entry{guard: a.guard, arrival: a}, nil
	}
	secured, info, err := a.guard.creds.ServerHandshake(a)
	if err != nil {
		return nil, nil, err
	}
	shown, _ := info.(credentials.TLSInfo)
	return secured, entry{guard: a.guard, arrival: a, certificate: commonName(shown.State)}, nil
}

func (doorkeeper) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errNoClient
}

func (doorkeeper) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "door"}
}

func (d doorkeeper) Clone() credentials.TransportCredentials { return d }

func (doorkeeper) OverrideServerName(string) error { return errNoClient }

// commonName is whom a verified certificate names.
func commonName(state tls.ConnectionState) string {
	if len(state.VerifiedChains) == 0 {
		return ""
	}
	return state.VerifiedChains[0][0].Subject.CommonName
}

// An entry is what is known of a connection.
type entry struct {
	guard       *guard
	arrival     *arrival
	certificate string // the user that a verified certificate names
}

// AuthType implements credentials.AuthInfo.
func (entry) AuthType() string { return "door" }

func entryOf(ctx context.Context) (entry, bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return entry{}, false
	}
	e, ok := p.AuthInfo.(entry)
	return e, ok
}

// The services that the client calls before it shows who it is.
const (
	openGossip   = "/event_store.client.gossip.Gossip/"
	openFeatures = "/event_store.client.server_features.ServerFeatures/"
	readMethod   = "/event_store.client.streams.Streams/Read"

	consumeMethod = "/event_store.client.persistent_subscriptions.PersistentSubscriptions/Read"
	infoMethod    = "/event_store.client.persistent_subscriptions.PersistentSubscriptions/GetInfo"
	listMethod    = "/event_store.client.persistent_subscriptions.PersistentSubscriptions/List"
)

// reads tells whether a call changes nothing. To consume from a persistent
// subscription changes how far it came.
func reads(method string) bool {
	return method == readMethod || method == infoMethod || method == listMethod
}

// admit says whether a call may be made by whom it comes from.
func admit(ctx context.Context, method string) error {
	e, ok := entryOf(ctx)
	if !ok {
		return &refusal{code: codes.Internal, text: "the call came through no door"}
	}
	e.arrival.meet()
	if e.guard.creds == nil || strings.HasPrefix(method, openGossip) || strings.HasPrefix(method, openFeatures) {
		return nil
	}
	user, err := e.user(ctx)
	switch {
	case err != nil:
		e.guard.log.InfoContext(ctx, "a call without valid credentials was refused", "method", method, "from", addressOf(ctx))
		return err
	case e.guard.readOnly[user] && !reads(method):
		return &refusal{
			codes.PermissionDenied, metadata.Pairs("exception", "access-denied"),
			"access denied: " + user + " may only read",
		}
	}
	return nil
}

func addressOf(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		return p.Addr.String()
	}
	return ""
}

// user is who is calling: the one a certificate names, else the one whose
// password was sent.
func (e entry) user(ctx context.Context) (string, error) {
	if len(e.guard.users) == 0 {
		return e.certificate, nil
	}
	if _, known := e.guard.users[e.certificate]; known {
		return e.certificate, nil
	}
	sent := metadata.ValueFromIncomingContext(ctx, "authorization")
	if len(sent) == 0 {
		return "", &refusal{code: codes.Unauthenticated, text: "credentials are missing"}
	}
	if user, ok := e.guard.knows(sent); ok {
		return user, nil
	}
	return "", &refusal{code: codes.Unauthenticated, text: "credentials are wrong"}
}

// knows checks credentials in the form of HTTP's basic authentication. An
// unknown user takes as long as a wrong password.
func (g *guard) knows(sent []string) (user string, ok bool) {
	const scheme = "basic "
	if len(sent) != 1 || len(sent[0]) < len(scheme) || !strings.EqualFold(sent[0][:len(scheme)], scheme) {
		return "", false
	}
	text, err := base64.StdEncoding.DecodeString(sent[0][len(scheme):])
	if err != nil {
		return "", false
	}
	user, password, _ := strings.Cut(string(text), ":")
	want, known := g.users[user]
	right := hmac.Equal(g.digest(password), want)
	return user, known && right
}

func admitUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	if err := admit(ctx, info.FullMethod); err != nil {
		return nil, asStatus(err, trailerOf(ctx))
	}
	return handle(ctx, req)
}

func admitStream(srv any, call grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	if err := admit(call.Context(), info.FullMethod); err != nil {
		switch {
		case info.FullMethod == consumeMethod:
			_ = call.RecvMsg(&shared.Empty{}) // what the client sends first, or it would not look at the answer either
		case info.IsClientStream && !info.IsServerStream:
			hearOut(call)
		}
		return asStatus(err, call.SetTrailer)
	}
	return handle(srv, call)
}

// hearOut reads an append that is refused to its end: to an early answer the
// client would say that it could not send, and not why. There is an end to it.
func hearOut(call grpc.ServerStream) {
	var m appendMessage
	for heard := 0; heard < maxMessage && call.RecvMsg(&m) == nil; {
		heard += m.length + 1<<10
	}
}
