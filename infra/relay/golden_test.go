package relay_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"cartwright/domain/event"
	"cartwright/infra/relay"
)

// Every version that was ever stored must be read for ever.
func TestEveryStoredVersionIsRead(t *testing.T) {
	events, err := event.NewRegistry(relay.Types()...)
	if err != nil {
		t.Fatal(err)
	}
	for _, typ := range relay.Types() {
		for version := 1; version <= typ.Version; version++ {
			stored, err := os.ReadFile(filepath.Join("testdata", fmt.Sprintf("%s.v%d.json", typ.Name, version)))
			if err != nil {
				t.Fatal(err)
			}
			e, err := events.Decode(event.Recorded{Name: typ.Name, Version: version, Data: bytes.TrimSpace(stored)})
			if err != nil {
				t.Fatal(err)
			}
			again, err := events.Encode(e)
			if err != nil || version == typ.Version && !bytes.Equal(again.Data, bytes.TrimSpace(stored)) {
				t.Errorf("%s v%d: got %s, %v", typ.Name, version, again.Data, err)
			}
		}
	}
}
