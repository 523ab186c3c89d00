package esdbnode

import (
	"context"
	"net"
	"strconv"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/gossip"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/serverfeatures"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"github.com/google/uuid"
	"google.golang.org/grpc/peer"
)

// version is the EventStoreDB whose behaviour this node follows. The client
// refuses one whose first three parts are not numbers.
const version = "24.10.0"

// featuresService tells which calls there are.
type featuresService struct {
	serverfeatures.UnimplementedServerFeaturesServer
}

// GetSupportedMethods lists what may be called, in lower case as the client compares it.
func (featuresService) GetSupportedMethods(context.Context, *shared.Empty) (*serverfeatures.SupportedMethods, error) {
	methods := &serverfeatures.SupportedMethods{EventStoreServerVersion: version}
	add := func(service string, names ...string) {
		for _, name := range names {
			methods.Methods = append(methods.Methods, &serverfeatures.SupportedMethod{ServiceName: service, MethodName: name})
		}
	}
	add("event_store.client.streams.streams", "read", "append", "batchappend", "delete", "tombstone")
	const subscriptions = "event_store.client.persistent_subscriptions.persistentsubscriptions"
	add(subscriptions, "restartsubsystem", "list", "create", "update", "delete", "read", "getinfo", "replayparked")
	for _, m := range methods.GetMethods() {
		if m.GetServiceName() == subscriptions && m.GetMethodName() != "restartsubsystem" && m.GetMethodName() != "list" {
			m.Features = []string{"stream", "all"}
		}
	}
	add("event_store.client.gossip.gossip", "read")
	add("event_store.client.server_features.serverfeatures", "getsupportedmethods")
	return methods, nil
}

// gossipService tells who is in the cluster: this node, which leads it.
type gossipService struct {
	gossip.UnimplementedGossipServer
	now func() time.Time
}

// Read names the address that the caller's door advertises, or the one at which
// the caller has reached the node already, which is one that works for it.
func (g gossipService) Read(ctx context.Context, _ *shared.Empty) (*gossip.ClusterInfo, error) {
	id := uuid.NewSHA1(uuid.Nil, []byte("cartwright node"))
	return &gossip.ClusterInfo{Members: []*gossip.MemberInfo{{
		InstanceId:   &shared.UUID{Value: &shared.UUID_String_{String_: id.String()}},
		TimeStamp:    g.now().UnixNano() / 100,
		State:        gossip.MemberInfo_Leader,
		IsAlive:      true,
		HttpEndPoint: endpoint(ctx),
	}}}, nil
}

func endpoint(ctx context.Context) *gossip.EndPoint {
	if e, ok := entryOf(ctx); ok && e.guard.advertise != nil {
		return e.guard.advertise
	}
	p, ok := peer.FromContext(ctx)
	if !ok || p.LocalAddr == nil {
		return &gossip.EndPoint{}
	}
	host, port, err := net.SplitHostPort(p.LocalAddr.String())
	if err != nil {
		return &gossip.EndPoint{Address: p.LocalAddr.String()} // a unix socket has a path and no port
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return &gossip.EndPoint{Address: host}
	}
	return &gossip.EndPoint{Address: host, Port: uint32(n)}
}
