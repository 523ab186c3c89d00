package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
)

// flashOptions are what the command line says of a flash sale.
type flashOptions struct {
	benchOptions
	within time.Duration
}

func newBenchFlashCommand(cfg config) *cobra.Command {
	var opt flashOptions
	cmd := &cobra.Command{
		Use:   "flash",
		Short: "Let many buyers come for few units, all within a second",
		Long: `Flash puts some units of one SKU on the shelf, and within a second all buyers come
for one, on a schedule (an open loop). Who is told to come again (429, 503) or is
not answered does so, under the same Idempotency-Key, and waits as long as the
answer says; why is told as "sent again". A latency counts from when the buyer was
due until the last answer.

In the end exactly as many orders have to be placed as there were units, all other
buyers refused by out_of_stock, and the stock taken to the last unit.

Exit codes: 0 done, 1 failed, 2 usage, 3 anything else came of it.`,
		Example: `  cartwright bench flash
  cartwright bench flash --buyers 100000 --stock 1000 --json`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if opt.within <= 0 {
				return usage(errors.New("buyers come within more than no time"))
			}
			opt.hot, opt.skus, opt.count, opt.duration = true, 1, opt.buyers, opt.within
			opt.rate = float64(opt.buyers) / opt.within.Seconds()
			if err := opt.checkSpread(); err != nil {
				return usage(err)
			}
			return opt.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), func(b *checkoutBench) workload {
				return (&flashBench{checkoutBench: b, within: opt.within}).workload()
			})
		},
	}
	f := cmd.Flags()
	opt.serverFlags(f, cfg)
	opt.spreadFlags(f)
	f.IntVar(&opt.buyers, "buyers", 10_000, "buyers who come")
	f.Int64Var(&opt.stock, "stock", 1000, "units there are")
	f.DurationVar(&opt.within, "within", time.Second, "the time in which they come")
	f.IntVar(&opt.concurrency, "concurrency", 1000, "checkouts under way at most")
	f.BoolVar(&opt.json, "json", false, "print the result as JSON, and nothing else, to standard output")
	return cmd
}

// A flashReport is what came of a flash sale.
type flashReport struct {
	Buyers    int     `json:"buyers"`
	Units     int64   `json:"units"`
	WithinS   float64 `json:"within_s"`
	Placed    int64   `json:"placed"`
	Refused   int64   `json:"refused"` // as out of stock
	AnsweredS float64 `json:"answered_s"`
}

// A flashBench sells few units to many.
type flashBench struct {
	*checkoutBench
	within time.Duration
}

func (f *flashBench) workload() workload {
	return workload{scenario: "flash", setUp: f.setUp, ahead: f.ahead, one: f.one, verify: f.verify, tell: f.tell}
}

func (f *flashBench) tell(r *benchReport) {
	f.tellCheckouts(r)
	t := f.sold[0].tally()
	r.Flash = &flashReport{Buyers: f.count, Units: f.stock, WithinS: f.within.Seconds(), Placed: t.placed, Refused: t.short, AnsweredS: r.DurationS}
}

// flashPatience is how long a buyer tries.
const flashPatience = 2 * time.Minute

// one has a buyer try until there is an answer for good.
func (f *flashBench) one(ctx context.Context, a *arrival) error {
	id, err := f.idOf(ctx, a.n)
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, flashPatience)
	defer cancel()
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		_, err = f.at(a).checkout(limited, id, f.goods[0].sku)
		wait, again := retry(err)
		if !again || !rest(limited, max(wait, jitter(pause))) {
			break
		}
		a.again(err)
	}
	a.ended(err)
	f.sold[0].note(err)
	return nil
}

// verify wants exactly what has to come of it.
func (f *flashBench) verify(ctx context.Context) (benchCheck, error) {
	c, err := f.checkoutBench.verify(ctx)
	if err != nil {
		return c, err
	}
	t := f.sold[0].tally()
	if want := min(f.stock, int64(f.count)); t.placed != want || t.short != int64(f.count)-want || c.Taken != want {
		c.Differences = append(c.Differences, fmt.Sprintf("%d buyers came for %d units: %d were placed, %d refused as out of stock, %d units taken",
			f.count, f.stock, t.placed, t.short, c.Taken))
	}
	return c, nil
}
