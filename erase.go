package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"cartwright/domain"
	"cartwright/infra/esdbnode"
	"cartwright/infra/keyring"
)

// erasedNews says what an erasure did.
type erasedNews struct {
	Buyer string `json:"buyer"`
	keyring.Erasure
	List      string              `json:"list"`                       // where it is noted
	Noted     bool                `json:"noted"`                      // now, and not before
	Scavenged *esdbnode.Scavenged `json:"scavenged,omitempty"`        // nil where the log is in EventStoreDB
	Backup    bool                `json:"backup_under_way,omitempty"` // began before, and may have the key
}

func newEraseCommand(cfg config) *cobra.Command {
	var buyer string
	var yes, asJSON bool
	j := job{Do: "erase"}
	cmd := &cobra.Command{
		Use:   "erase --buyer ID",
		Short: "Destroy a buyer's key, and with it names and addresses",
		Long: `Destroy the key that a buyer's names, phone numbers and addresses are encrypted
with, wherever they are: in the log, on the bus, in views, caches, archives and
backups. They are unreadable from then on, and nothing brings them back. Orders,
money and sums stay as they are; an order's address is null. The buyer can't
order under this id again (buyer_erased).

  cartwright erase --buyer 4711 --reason "asked on 2 May"
  cartwright erase --buyer 4711 --yes --json

First the buyer is noted in the list of erased buyers, ` + erasuresName + ` in the data
folder or where CARTWRIGHT_ERASURES says. Then the key's stream is ended, and the
embedded log scavenged, so that no file of it has the key any more. A log in
EventStoreDB is scavenged by its operators, on every node; how is printed.

A backup from before has the key. Whatever is started on one erases again whom
the list names, before it answers anybody: so keep the list where restoring a
backup does not replace it, give it to every process by CARTWRIGHT_ERASURES, and
destroy backups in time. A cluster has no data folder, so there it must be set.

Doing it twice does no harm, and finishes one that was broken off. It asks the
process that owns the data folder, or opens the folder when nobody does. Others
that have the key in memory forget it within a minute.`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if buyer == "" {
				return usage(errors.New("whom? --buyer ID"))
			}
			if err := errors.Join(domain.CheckID("--buyer", buyer), domain.CheckText("--reason", j.Reason, 500)); err != nil {
				return usage(err)
			}
			if !yes {
				if err := confirmErasure(cmd, buyer); err != nil {
					return err
				}
			}
			j.Stream = keyring.Stream(buyer)
			return askToErase(cmd.Context(), cfg, j, teller(cmd, asJSON, showErased))
		},
	}
	cfg.dataFlag(cmd.Flags())
	cmd.Flags().StringVar(&cfg.EventStore, "eventstore", cfg.EventStore, "esdb://… of the event log; empty is embedded (CARTWRIGHT_EVENTSTORE)")
	cmd.Flags().StringVar(&cfg.Erasures, "erasures", cfg.Erasures, "the list of erased buyers; empty is "+erasuresName+" in the data folder (CARTWRIGHT_ERASURES)")
	cmd.Flags().TextVar(&cfg.LogLevel, "log-level", cfg.LogLevel, "debug, info, warn or error (CARTWRIGHT_LOG_LEVEL)")
	cmd.Flags().StringVar(&buyer, "buyer", "", "whose key is to be destroyed")
	cmd.Flags().StringVar(&j.Reason, "reason", "", "why, for the list")
	cmd.Flags().StringVar(&j.By, "by", whoAmI(), "on whose word, for the list")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func whoAmI() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return ""
}

// confirmErasure has the buyer's id typed again: what follows can't be undone.
func confirmErasure(cmd *cobra.Command, buyer string) error {
	if in, ok := cmd.InOrStdin().(*os.File); ok && !onTerminal(in) {
		return usage(errors.New("this can't be undone: --yes says that it is meant"))
	}
	if _, err := fmt.Fprintf(cmd.ErrOrStderr(), "The names and addresses of %s will be unreadable for ever. Type the id again: ", buyer); err != nil {
		return err
	}
	said, err := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if strings.TrimSpace(said) != buyer {
		return errors.New("that is another id: nothing was done")
	}
	return nil
}

// askToErase has it done by the owner of the data folder, which has the log and
// the key in memory, or here.
func askToErase(ctx context.Context, cfg config, j job, tell func(news) error) error {
	if cfg.EventStore == "" {
		if _, err := os.Stat(cfg.path(logName, "FORMAT")); err != nil {
			return fmt.Errorf("there is no event log in %s, and --eventstore says of no other: %w", cfg.Data, err)
		}
		f, err := own(cfg.Data)
		if errors.Is(err, errOwned) {
			return askOwner(ctx, cfg, j, tell)
		}
		if err == nil {
			err = f.Close() // openSystem takes it again
		}
		if err != nil {
			return err
		}
	} else if cfg.Erasures == "" {
		return usage(errNoList)
	}
	s, err := openSystem(ctx, cfg, needs{log: true})
	if err != nil {
		return err
	}
	return errors.Join(s.erase(ctx, j, tell), s.close(context.WithoutCancel(ctx)))
}

// errNoList says that a log elsewhere leaves open where the list is.
var errNoList = errors.New("the log is in EventStoreDB: CARTWRIGHT_ERASURES must say where the list of erased buyers is, outside of what is backed up with that log")

// erase erases the buyer whose key's stream a job names.
func (s *system) erase(ctx context.Context, j job, tell func(news) error) error {
	buyer, named := strings.CutPrefix(j.Stream, keyring.Stream(""))
	if err := domain.CheckID("/buyer", buyer); err != nil || !named {
		return errors.Join(fmt.Errorf("%q is no stream of a buyer's key", j.Stream), err)
	}
	if s.store.node == nil && s.cfg.Erasures == "" {
		return errNoList
	}
	list := erasureList{path: s.cfg.erasureLists()[0], log: s.log}
	done := erasedNews{Buyer: buyer, List: list.path}
	var err error
	done.Noted, err = list.note(ctx, erasure{Buyer: buyer, At: time.Now().UTC().Truncate(time.Millisecond), By: j.By, Reason: j.Reason})
	if err != nil {
		return fmt.Errorf("nobody was erased: %w", err)
	}
	if done.Erasure, err = s.destroyKey(ctx, buyer); err != nil {
		return err
	}
	if s.store.node != nil {
		if done.Backup, err = s.removeStage(); err != nil {
			return err
		}
		var swept esdbnode.Scavenged
		if swept, err = s.store.node.Scavenge(ctx, keyring.Stream(buyer)); err != nil {
			return fmt.Errorf("the key is destroyed, and may still lie in files: %w", err)
		}
		done.Scavenged = &swept
	}
	s.log.InfoContext(ctx, "a buyer was erased", "by", j.By, "key", done.Key, "before", done.Before)
	return tell(news{Erased: &done})
}

// destroyKey erases a buyer, and has the ring of this process, if there is one,
// forget the key.
func (s *system) destroyKey(ctx context.Context, buyer string) (keyring.Erasure, error) {
	if s.ring != nil {
		return s.ring.Erase(ctx, s.store, buyer)
	}
	return keyring.Erase(ctx, s.store, buyer)
}

// removeStage removes what a backup that was killed has left of the log's files
// in the data folder. One that is under way does so itself.
func (s *system) removeStage() (underWay bool, err error) {
	lock := flock.New(s.cfg.path("backup.lock"))
	free, err := lock.TryLock()
	if err != nil || !free {
		return err == nil, err
	}
	return false, errors.Join(os.RemoveAll(s.cfg.path(stageName)), lock.Unlock())
}

// erasingAtOnce is how many buyers are looked after at once when a process starts.
const erasingAtOnce = 16

// eraseAgain erases whom the lists name, in a log that may be older than they
// are, before anybody is answered. In a log that knows of them it only looks.
func (s *system) eraseAgain(ctx context.Context) error {
	listed, err := s.cfg.erasures(ctx, s.log)
	if err != nil || len(listed) == 0 {
		return err
	}
	streams, again := make([]string, len(listed)), make([]bool, len(listed))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(erasingAtOnce)
	for i, e := range listed {
		streams[i] = keyring.Stream(e.Buyer)
		g.Go(func() error {
			done, failed := s.destroyKey(gctx, e.Buyer)
			again[i] = !done.Before
			return failed
		})
	}
	if err = g.Wait(); err != nil {
		return fmt.Errorf("erase again whom the list names: %w", err)
	}
	count := 0
	for _, a := range again {
		if a {
			count++
		}
	}
	if count > 0 {
		s.log.WarnContext(ctx, "the log did not know of buyers who are erased, and does now", "buyers", count)
	}
	if s.store.node == nil {
		return nil
	}
	// One that was broken off behind the tombstone is finished here, too.
	_, err = s.store.node.Scavenge(ctx, streams...)
	return err
}

// scavenge throws away what nobody is shown any more, of the whole log where no
// streams are named.
func (s *system) scavenge(ctx context.Context, streams []string, tell func(news) error) error {
	swept, err := s.store.node.Scavenge(ctx, streams...)
	if err != nil {
		return err
	}
	return tell(news{Scavenged: &swept})
}

// showErased says what was done, and what is left to others.
func showErased(w io.Writer, n news) error {
	e := n.Erased
	if e == nil {
		return nil
	}
	var b strings.Builder
	switch {
	case e.Before:
		fmt.Fprintf(&b, "%s was erased before; the key is destroyed.\n", e.Buyer)
	case e.Key:
		fmt.Fprintf(&b, "%s is erased: the key is destroyed.\n", e.Buyer)
	default:
		fmt.Fprintf(&b, "%s is erased: there was no key, and never will be.\n", e.Buyer)
	}
	fmt.Fprintf(&b, "It is noted in %s.\n", e.List)
	if s := e.Scavenged; s != nil {
		fmt.Fprintf(&b, "The log was scavenged: %d events are gone from it, and %d files that may have had them.\n", s.Events, s.Files)
	} else {
		b.WriteString(scavengeElsewhere)
	}
	if e.Backup {
		b.WriteString("A backup is under way that began before: it may have the key. Its list has the erasure.\n")
	}
	b.WriteString("Backups from before have the key: destroy them in time, and start nothing on one without this list.\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// scavengeElsewhere is the step that is left to the operators of a cluster.
const scavengeElsewhere = `The log is in EventStoreDB, whose files still have the key. Run a scavenge on every
node of the cluster, one after the other, and wait for each to end:
  curl -X POST -u admin:PASSWORD https://NODE:2113/admin/scavenge
Processes that have the key in memory forget it within a minute.
`
