package memstore_test

import (
	"testing"

	"go.uber.org/goleak"

	"cartwright/infra/memstore"
	"cartwright/infra/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	storetest.Run(t, func(*testing.T) storetest.Store { return new(memstore.Store) })
}
