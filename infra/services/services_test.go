package services_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cartwright/infra/services"
)

func TestWhatUpWroteIsRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "env")
	text := "KAFKA_BROKERS=a:1,b:2\nREDIS_ADDR=c:3\nSERVICES_PASSWORD=x=y\nLATER=z\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := services.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	want := services.Env{Kafka: []string{"a:1", "b:2"}, Redis: "c:3", Password: "x=y"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
}

func TestWithoutItsFileNothingIsGuessed(t *testing.T) {
	if e, err := services.Load(filepath.Join(t.TempDir(), "env")); err == nil {
		t.Fatalf("got %+v", e)
	}
}
