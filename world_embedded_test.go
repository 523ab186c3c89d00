//go:build !integration

package main

import (
	"errors"
	"testing"
	"time"

	"cartwright/domain/event"
	"cartwright/infra/sqliteviews"
	"cartwright/projections"
)

// The scenarios run on embedded backends: nothing is installed, nothing is set.
const realServers = false

// viewPatience is how long the views may take to follow, after a kill too.
const viewPatience = 15 * time.Second

func prepareWorld() error { return nil }

// backends are the settings of a command line's servers.
func backends([]string) []string { return nil }

// sweep removes what a data folder has on servers.
func sweep(testing.TB, string) {}

// simulated is where a simulation keeps its views.
func simulated(testing.TB) config { return config{} }

// spoil puts a wrong document into the order index of a data folder.
func spoil(tb testing.TB, data, stream string, at event.Revision) {
	tb.Helper()
	index, err := sqliteviews.Open(tb.Context(), data+"/views/index")
	if err != nil {
		tb.Fatal(err)
	}
	err = index.Orders().Live().Repair(tb.Context(), []projections.Doc[projections.Order]{wrongOrder(stream, at)})
	if err = errors.Join(err, index.Close()); err != nil {
		tb.Fatal(err)
	}
}
