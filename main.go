// Command cartwright is an event-sourced commerce back end: a command API, a
// query API, everything between them, and the tools to look after it.
//
// This package wires the rooms together and does nothing else: config.go says
// what can be set, wire.go is the only file that knows every backend, serve.go
// runs the parts, the other files are the tools.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// The exit codes every command has.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitDifferences = 3
)

func main() { os.Exit(run(os.Args[1:])) }

// run carries out a command line and gives the exit code.
func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cmd, err := newCommand()
	if err == nil {
		cmd.SetArgs(args)
		err = cmd.ExecuteContext(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cartwright:", err)
	}
	return exitOf(err)
}

// exitOf is the exit code that an error means.
func exitOf(err error) int {
	if e, ok := errors.AsType[*exitError](err); ok {
		return e.code
	}
	if err != nil {
		return exitFailed
	}
	return 0
}

// usage marks an error as the caller's, whose command line makes no sense.
func usage(err error) error {
	if err == nil {
		return nil
	}
	return &exitError{code: exitUsage, err: err}
}

func newCommand() (*cobra.Command, error) {
	cfg, err := readConfig()
	if err != nil {
		return nil, usage(err)
	}
	root := &cobra.Command{
		Use:   "cartwright",
		Short: "An event-sourced commerce back end",
		Long: `Cartwright keeps orders, stock and accounts as streams of events.

  cartwright serve            everything in one process, nothing to install
  cartwright import FILE      bring real orders in through the public API

Exit codes: 0 done, 1 failed, 2 usage, 3 finished and found differences.
Every setting is a flag or an environment variable; -h on each command names both.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(*cobra.Command, []string) error {
			return usage(errors.New("which command? (cartwright -h lists them)"))
		},
		Args: usageArgs(cobra.NoArgs),
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage(err) })
	root.AddCommand(newPartCommands(cfg)...)
	root.AddCommand(newEventsCommand(cfg), newReplayCommand(cfg), newVerifyCommand(cfg), newParkCommand(cfg), newStatusCommand(cfg), newHealthCommand(cfg))
	root.AddCommand(newArchiveCommand(cfg), newEraseCommand(cfg), newNodeCommand(cfg), newCopyCommand(cfg), newBackupCommand(cfg), newRestoreCommand(cfg))
	root.AddCommand(newImportCommand(), newReconcileCommand(cfg), newBenchCommand(cfg), newSandboxChannelCommand())
	root.CompletionOptions.HiddenDefaultCmd = true
	return root, nil
}
