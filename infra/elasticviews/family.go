package elasticviews

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"syscall"
	"time"

	"cartwright/projections"
)

// A family is what a view's lineage document says.
type family struct {
	projections.Lineage

	Builders map[int]builder `json:"builders,omitempty"` // of the generations under construction
	Turning  []turning       `json:"turning,omitempty"`
	Lost     *loss           `json:"lost,omitempty"` // why the live generation is not one any more
	Ready    bool            `json:"ready"`          // the first generation was made
	Stamp    string          `json:"stamp"`          // of who wrote it last, to know its own writing again
}

// A builder is the process that builds a generation.
type builder struct {
	Token string    `json:"token"`          // of the opening; empty for one that was left
	Host  string    `json:"host,omitempty"` // where it runs, as which process
	PID   int       `json:"pid,omitempty"`
	Seen  time.Time `json:"seen"` // when it last said that it goes on
}

// here is this process as the builder of something.
func (d *DB) here() builder {
	host, err := os.Hostname()
	if err != nil {
		host = "" // then others wait until they have not heard of it
	}
	return builder{d.token, host, os.Getpid(), time.Now().UTC()}
}

// gone tells whether nobody goes on with what a builder builds: it has said so,
// has not been heard of for long, or was a process of this machine that is no more.
func (b builder) gone(silent time.Duration) bool {
	if b.Token == "" || time.Since(b.Seen) > silent {
		return true
	}
	host, err := os.Hostname()
	if err != nil || b.Host != host || b.PID == 0 || b.PID == os.Getpid() {
		return false
	}
	p, err := os.FindProcess(b.PID)
	return err == nil && errors.Is(p.Signal(syscall.Signal(0)), os.ErrProcessDone)
}

// A loss is the end of a live generation that nobody has replaced yet.
type loss struct {
	Number int       `json:"number"`
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
}

// lost gives why the live generation can't be asked, or nil.
func (f family) lost() *loss {
	if f.Lost == nil || f.Lost.Number != f.Live {
		return nil
	}
	return f.Lost
}

// losing is the family without a live generation: it can only be built anew.
func (f family) losing(reason string) family {
	if f.lost() == nil {
		f.Lost = &loss{f.Live, reason, time.Now().UTC()}
	}
	return f
}

// errMoved tells that another process changed the lineage first.
var errMoved = errors.New("another process changed the generations at the same time")

// turning says that a process is about to make a generation the live one, so
// that no other drops it meanwhile.
type turning struct {
	Number int       `json:"number"`
	Keep   int       `json:"keep,omitempty"`
	Token  string    `json:"token"`
	Since  time.Time `json:"since"`
}

// turningAtMost is how long a switch can take from its mark to the alias.
const turningAtMost = 2 * time.Minute

// settled is a copy that speaks of generations only that there are.
func (f family) settled() family {
	f.Builders, f.Turning = maps.Clone(f.Builders), slices.Clone(f.Turning)
	maps.DeleteFunc(f.Builders, func(number int, _ builder) bool { return !slices.Contains(f.Building, number) })
	f.Turning = slices.DeleteFunc(f.Turning, func(t turning) bool {
		return t.Number == f.Live || time.Since(t.Since) > turningAtMost || !slices.Contains(f.known(), t.Number)
	})
	f.Lost = f.lost()
	return f
}

// announced says of a generation that a process is about to make it live.
func (f family) announced(number, keep int, token string) family {
	f = f.withdrawn(token)
	f.Turning = append(f.Turning, turning{number, keep, token, time.Now().UTC()})
	return f
}

// withdrawn is the family when a process does not go on to switch.
func (f family) withdrawn(token string) family {
	f = f.settled()
	f.Turning = slices.DeleteFunc(f.Turning, func(t turning) bool { return t.Token == token })
	return f
}

func (f family) isTurning(number int) bool {
	return slices.ContainsFunc(f.Turning, func(t turning) bool { return t.Number == number })
}

// turned is the family once a generation is live. What is to be dropped then is
// found by a sweep. How many are kept was said by whoever was about to switch.
func (f family) turned(to int) (next family, err error) {
	keep := 1
	for _, t := range f.Turning {
		if t.Number == to {
			keep = max(keep, t.Keep)
		}
	}
	f.Lineage, _, err = f.Turn(to, keep)
	return f.settled(), err
}

// without is the family without some generations.
func (f family) without(numbers ...int) (family, error) {
	var err error
	f = f.settled()
	for _, number := range numbers {
		if f.isTurning(number) {
			return f, fmt.Errorf("generation %d is about to become the live one", number)
		}
		if f.Lineage, err = f.Forget(number); err != nil {
			return f, err
		}
	}
	return f.settled(), nil
}

// begun is the family with one more generation under construction.
func (f family) begun(by builder) family {
	f.Lineage = f.Begin()
	return f.builtBy(f.Last, by)
}

// builtBy is the family whose generation is built by another process.
func (f family) builtBy(number int, by builder) family {
	f = f.settled()
	if f.Builders == nil {
		f.Builders = map[int]builder{}
	}
	f.Builders[number] = by
	return f
}

// built are the generations that a process builds.
func (f family) built(token string) []int {
	return slices.DeleteFunc(slices.Clone(f.Building), func(n int) bool { return f.Builders[n].Token != token })
}

// abandoned are those that nobody goes on with, or ever will: of those with a
// mark the newest stays.
func (f family) abandoned() []int {
	f = f.settled()
	stays := f.Unfinished()
	return slices.DeleteFunc(slices.Clone(f.Building), func(n int) bool {
		return f.isTurning(n) || n == stays || !f.Builders[n].gone(abandonAfter)
	})
}

// left is the family when a process builds no more: what it has no mark of goes,
// and of what it has the newest stays, for whoever comes later.
func (f family) left(token string) (family, error) {
	f = f.withdrawn(token)
	stays, mine := 0, f.built(token)
	for _, n := range mine {
		if _, marked := f.Marks[n]; marked {
			stays = max(stays, n)
		}
	}
	if stays != 0 {
		f = f.builtBy(stays, builder{})
	}
	return f.without(slices.DeleteFunc(mine, func(n int) bool { return n == stays })...)
}

// same tells whether two families say the same, whoever wrote them.
func same(a, b family) (bool, error) {
	a.Stamp, b.Stamp = "", ""
	one, err := json.Marshal(a.settled())
	if err != nil {
		return false, err
	}
	other, err := json.Marshal(b)
	return string(one) == string(other), err
}

// known are all generations that there are.
func (f family) known() []int {
	return append(append([]int{f.Live}, f.Building...), f.Kept()...)
}

// readFamily gives a view's lineage as it is now. It is not there before the
// view was first opened.
func (d *DB) readFamily(ctx context.Context, view string) (f family, at *seen, err error) {
	docs, err := d.c.documents(ctx, d.index(lineages.name), []ref{{ID: view}}, entire)
	if isType(err, noIndex) {
		// Somebody has deleted it. The aliases know enough to begin again.
		return f, nil, d.create(ctx, d.index(lineages.name), lineages, d.liveSettings(), nil)
	}
	if err != nil {
		return f, nil, fmt.Errorf("read the generations of %s: %w", view, err)
	}
	if !docs[0].Found {
		return f, nil, nil
	}
	said := struct {
		Family *family `json:"family"`
	}{&f}
	if err := json.Unmarshal(docs[0].Source, &said); err != nil {
		return f, nil, fmt.Errorf("decode the generations of %s: %w", view, err)
	}
	return f, &seen{docs[0].Seq, docs[0].Term}, nil
}

// writeFamily replaces a lineage that was read, or makes the first one. It is
// errMoved where another process came first.
func (d *DB) writeFamily(ctx context.Context, view string, f family, at *seen) error {
	f.Stamp = rand.Text()
	raw, err := json.Marshal(map[string]any{"family": f})
	if err != nil {
		return fmt.Errorf("encode the generations of %s: %w", view, err)
	}
	o := op{action: "create", index: d.index(lineages.name), id: view, source: raw}
	if at != nil {
		o.action, o.seen = "index", at
	}
	outcomes, err := d.c.bulk(ctx, []op{o})
	switch {
	case err != nil:
		return fmt.Errorf("write the generations of %s: %w", view, err)
	case outcomes[0].conflict():
		return d.mine(ctx, view, f.Stamp)
	case !outcomes[0].done():
		return fmt.Errorf("write the generations of %s: %w", view, outcomes[0].err())
	}
	return nil
}

// mine tells whether a conflict was with the same write, sent twice.
func (d *DB) mine(ctx context.Context, view, stamp string) error {
	f, _, err := d.readFamily(ctx, view)
	if err != nil {
		return err
	}
	if f.Stamp != stamp {
		return errMoved
	}
	return nil
}
