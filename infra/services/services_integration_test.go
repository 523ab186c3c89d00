//go:build integration

package services_test

import (
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cartwright/infra/services"
)

func TestAKilledServerComesBackWhereItWas(t *testing.T) {
	e := services.Start(t, "redis")
	if !answers(t, e.Redis) || !answers(t, e.RedisSecure) || !answers(t, e.RedisCluster[0]) {
		t.Fatal("nothing answers after the start")
	}
	e.Kill(t, "redis")
	deadline := time.Now().Add(10 * time.Second)
	for answers(t, e.Redis) {
		if time.Now().After(deadline) {
			t.Fatal("it still answers")
		}
	}
	if !answers(t, e.RedisCluster[0]) {
		t.Fatal("the other one was stopped too")
	}
	e.Restart(t, "redis")
	if !answers(t, e.Redis) {
		t.Fatal("nothing answers after the restart")
	}
	again, err := services.Load(filepath.Join(e.Dir, "env"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(e, again); diff != "" {
		t.Fatalf("it moved (-want +got):\n%s", diff)
	}
}

func answers(t *testing.T, addr string) bool {
	t.Helper()
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		return false
	}
	return c.Close() == nil
}
