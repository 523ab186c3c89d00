package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"cartwright/projections"
)

// archiveNews says what was archived and what is where.
type archiveNews struct {
	Moved  int64              `json:"moved"`
	Before time.Time          `json:"before,omitzero"` // what was closed before is in the archive
	Tiers  []projections.Tier `json:"tiers,omitempty"` // at the end
}

// archive moves what was closed before a time out of the way.
func (s *system) archive(ctx context.Context, before time.Time, tell func(news) error) error {
	view := projections.OrdersView().Name
	return s.alone(ctx, "archive", func(ctx context.Context) error {
		moved, err := s.views.archive.Archive(ctx, before, func(moved int64) {
			_ = tell(news{View: view, Archive: &archiveNews{Moved: moved, Before: before}}) // a reader that left stops nothing
		})
		if err != nil {
			return fmt.Errorf("archive what was closed before %s: %w", before.UTC().Format(time.RFC3339), err)
		}
		return s.tellTiersAfter(ctx, moved, tell)
	})
}

func (s *system) tellTiers(ctx context.Context, tell func(news) error) error {
	return s.tellTiersAfter(ctx, 0, tell)
}

func (s *system) tellTiersAfter(ctx context.Context, moved int64, tell func(news) error) error {
	n := archiveNews{Moved: moved}
	var err error
	if n.Before, err = s.views.archive.Boundary(ctx); err != nil {
		return err
	}
	if n.Tiers, err = s.views.archive.Tiers(ctx); err != nil {
		return err
	}
	return tell(news{View: projections.OrdersView().Name, Archive: &n})
}

// archiveCheck is how often it is asked whether it is time to archive.
const archiveCheck = time.Minute

// archiveNowAndThen keeps the order index small: what is long closed is moved
// once every so often, by whichever process comes first.
func (r *running) archiveNowAndThen(ctx context.Context) {
	tick := time.NewTicker(archiveCheck)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if err := r.archiveIfDue(ctx); err != nil && ctx.Err() == nil {
			r.log.WarnContext(ctx, "can't archive closed orders", "err", err)
		}
	}
}

func (r *running) archiveIfDue(ctx context.Context) error {
	before := archiveBefore(time.Now(), r.cfg.ArchiveAfter)
	last, err := r.views.archive.Boundary(ctx)
	if err != nil || before.Sub(last) < r.cfg.ArchiveEvery {
		return err
	}
	return r.archive(ctx, before, func(n news) error {
		if n.Archive != nil && n.Archive.Tiers != nil {
			r.log.InfoContext(ctx, "closed orders were archived", "moved", n.Archive.Moved, "before", n.Archive.Before)
		}
		return nil
	})
}

// archiveBefore is the end of what is to be archived, to the second.
func archiveBefore(now time.Time, after time.Duration) time.Time {
	return now.Add(-after).UTC().Truncate(time.Second)
}

func newArchiveCommand(cfg config) *cobra.Command {
	j := job{Do: "archive"}
	var asJSON, show bool
	cmd := &cobra.Command{
		Use:   "archive",
		Short: "Move orders that are long closed out of the way",
		Long: `Move orders that were completed, cancelled or refunded long ago from the order
index into the archive, which is an index a year (of when they were placed).
The index that is asked most stays small; nothing is deleted: the event log is
as it was, and queries with scope=archive or scope=all find them. What happens
to such an order later, like a refund, is seen where it is.

  cartwright archive                     what was closed more than 90 days ago
  cartwright archive --older-than 720h   30 days
  cartwright archive --show              only say how much is where

The part that keeps the views does this by itself, every CARTWRIGHT_ARCHIVE_EVERY.
It asks the process that owns the data folder, or opens the folder when nobody does.`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cfg.ArchiveAfter <= 0 {
				return usage(errors.New("--older-than is more than nothing: orders that were just closed are still asked for"))
			}
			j.Before = archiveBefore(time.Now(), cfg.ArchiveAfter)
			if show {
				j.Do = "tiers"
			}
			return ask(cmd.Context(), cfg, j, teller(cmd, asJSON, showArchive))
		},
	}
	cfg.backendFlags(cmd.Flags())
	cmd.Flags().DurationVar(&cfg.ArchiveAfter, "older-than", cfg.ArchiveAfter, "how long ago they were closed (CARTWRIGHT_ARCHIVE_AFTER)")
	cmd.Flags().BoolVar(&show, "show", false, "move nothing, and say how much is where")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON lines")
	return cmd
}

func showArchive(w io.Writer, n news) error {
	a := n.Archive
	if a == nil || a.Tiers == nil {
		return nil
	}
	if !a.Before.IsZero() {
		if _, err := fmt.Fprintf(w, "%d orders moved; the archive has what was closed before %s\n", a.Moved, a.Before.Format(time.RFC3339)); err != nil {
			return err
		}
	}
	for _, t := range a.Tiers {
		name := "at hand"
		if t.Year != 0 {
			name = strconv.Itoa(t.Year)
		}
		if _, err := fmt.Fprintf(w, "%8s  %d orders\n", name, t.Documents); err != nil {
			return err
		}
	}
	return nil
}
