package persistent_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	pb "github.com/EventStore/EventStore-Client-Go/v4/protos/persistent"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"go.uber.org/goleak"

	"cartwright/infra/esdbnode/persistent"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func creation(stream, group string) *pb.CreateReq {
	return &pb.CreateReq{Options: &pb.CreateReq_Options{
		GroupName: group,
		Settings: &pb.CreateReq_Settings{
			MaxRetryCount: 10, MinCheckpointCount: 10, MaxCheckpointCount: 1000, LiveBufferSize: 500, ReadBatchSize: 20, HistoryBufferSize: 500,
			ConsumerStrategy: persistent.RoundRobin,
		},
		StreamOption: &pb.CreateReq_Options_Stream{Stream: &pb.CreateReq_StreamOptions{
			StreamIdentifier: &shared.StreamIdentifier{StreamName: []byte(stream)},
			RevisionOption:   &pb.CreateReq_StreamOptions_Start{Start: &shared.Empty{}},
		}},
	}}
}

func deletion(stream, group string) *pb.DeleteReq {
	return &pb.DeleteReq{Options: &pb.DeleteReq_Options{
		GroupName:    group,
		StreamOption: &pb.DeleteReq_Options_StreamIdentifier{StreamIdentifier: &shared.StreamIdentifier{StreamName: []byte(stream)}},
	}}
}

// The log is followed once, and only for as long as there is somebody to tell.
func TestTheLogIsFollowedOnceForAllGroups(t *testing.T) {
	log := newMemLog()
	s := persistent.Start(t.Context(), log, persistent.Options{Log: slog.New(slog.DiscardHandler), User: func(context.Context) string { return "" }})
	want := func(n int64) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); log.followers.Load() != n; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("the log has %d followers, want %d", log.followers.Load(), n)
			}
		}
	}
	want(0)
	for range 2 { // those that come when all were gone are told too
		for _, group := range []string{"a", "b"} {
			if _, err := s.Create(t.Context(), creation("s", group)); err != nil {
				t.Fatal(err)
			}
			want(1)
		}
		for _, group := range []string{"a", "b"} {
			want(1)
			if _, err := s.Delete(t.Context(), deletion("s", group)); err != nil {
				t.Fatal(err)
			}
		}
		want(0)
	}
	if _, err := s.Create(t.Context(), creation("s", "c")); err != nil {
		t.Fatal(err)
	}
	want(1)
	s.Stop(t.Context())
	s.Wait()
	want(0)
}
