package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cartwright/domain/event"
)

// newEventsCommand prints what the log says. Keys of personal data are never printed.
func newEventsCommand(cfg config) *cobra.Command {
	var follow, asJSON bool
	var stream string
	var after uint64
	cmd := &cobra.Command{
		Use:   "events [CATEGORY…]",
		Short: "Print the event log, or one stream of it",
		Long: `Print all events in the order of the log, or those of one stream.

  cartwright events                        everything but system streams and keys
  cartwright events order inventory        these categories only
  cartwright events --stream order-0123…   one stream
  cartwright events --follow               go on with what is appended, until Ctrl-C
  cartwright events --after 1200 --json    what is behind a position, as JSON lines

It asks the process that owns the data folder, or opens the folder when nobody
does. Personal data is shown as it is stored, encrypted; key streams are not shown.`,
		RunE: func(cmd *cobra.Command, categories []string) error {
			if stream != "" && (follow || after > 0 || len(categories) > 0) {
				return usage(errors.New("--stream goes with no category, --follow or --after"))
			}
			if strings.HasPrefix(stream, "key-") {
				return usage(errors.New("key streams are never printed"))
			}
			ctx := cmd.Context()
			l, done, err := visitLog(ctx, cfg, cfg.logger())
			if err != nil {
				return err
			}
			defer func() { _ = done(ctx) }()
			show := printEvent
			if asJSON {
				show = printEventJSON
			}
			prefixes := make([]string, len(categories))
			for i, c := range categories {
				prefixes[i] = strings.TrimSuffix(c, "-") + "-"
			}
			switch {
			case stream != "":
				return printAll(cmd.OutOrStdout(), l.Load(ctx, stream, 0), show)
			case !follow:
				return printAll(cmd.OutOrStdout(), l.All(ctx, after, prefixes...), show)
			}
			for n, err := range l.Follow(ctx, after, prefixes...) {
				if ctx.Err() != nil {
					return nil // the usual end of following
				}
				if err != nil {
					return err
				}
				if n.Event.Name == "" {
					continue
				}
				if err := printOne(cmd.OutOrStdout(), n.Event, show); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cfg.backendFlags(cmd.Flags())
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what is appended")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON lines")
	cmd.Flags().StringVar(&stream, "stream", "", "only this stream")
	cmd.Flags().Uint64Var(&after, "after", 0, "only what is behind this position")
	return cmd
}

func printAll(w io.Writer, events iter.Seq2[event.Recorded, error], show func(io.Writer, event.Recorded) error) error {
	for r, err := range events {
		if err != nil {
			return err
		}
		if err := printOne(w, r, show); err != nil {
			return err
		}
	}
	return nil
}

func printOne(w io.Writer, r event.Recorded, show func(io.Writer, event.Recorded) error) error {
	if event.Category(r.Stream) == "key" {
		return nil
	}
	return show(w, r)
}

func printEvent(w io.Writer, r event.Recorded) error {
	_, err := fmt.Fprintf(w, "%8d  %s  %s@%d  %s v%d  %s\n",
		r.Position, r.Created.UTC().Format(time.RFC3339), r.Stream, r.Revision, r.Name, r.Version, r.Data)
	return err
}

// A shownEvent is an event as scripts get it.
type shownEvent struct {
	Position    uint64          `json:"position"`
	Stream      string          `json:"stream"`
	Revision    event.Revision  `json:"revision"`
	ID          string          `json:"id"`
	Name        string          `json:"name"`
	Version     int             `json:"version"`
	Created     time.Time       `json:"created"`
	At          time.Time       `json:"at,omitzero"`
	Cause       string          `json:"cause,omitempty"`
	Correlation string          `json:"correlation,omitempty"`
	Actor       string          `json:"actor,omitempty"`
	Data        json.RawMessage `json:"data"`
}

func showEvent(r event.Recorded) shownEvent {
	return shownEvent{
		r.Position, r.Stream, r.Revision, r.ID, r.Name, r.Version, r.Created,
		r.At, r.Cause, r.Correlation, r.Actor, r.Data,
	}
}

func printEventJSON(w io.Writer, r event.Recorded) error {
	return json.NewEncoder(w).Encode(showEvent(r))
}
