//go:build !integration

package main

import (
	"testing"
	"time"
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
