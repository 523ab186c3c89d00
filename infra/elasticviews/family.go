package elasticviews

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"cartwright/projections"
)

// A family is what a view's lineage document says.
type family struct {
	projections.Lineage

	Builders map[int]builder `json:"builders,omitempty"` // of the generations under construction
	Turning  []turning       `json:"turning,omitempty"`
	Ready    bool            `json:"ready"` // the first generation was made
	Stamp    string          `json:"stamp"` // of who wrote it last, to know its own writing again
}

// A builder is the process that builds a generation.
type builder struct {
	Token string    `json:"token"`
	Seen  time.Time `json:"seen"` // when it last said that it goes on
}

// errMoved tells that another process changed the lineage first.
var errMoved = errors.New("another process changed the generations at the same time")

// turning says that a process is about to make a generation the live one, so
// that no other drops it meanwhile.
type turning struct {
	Number int       `json:"number"`
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
	return f
}

// marked says of a generation that a process is about to make it live.
func (f family) marked(number int, token string) family {
	f = f.unmarked(token)
	f.Turning = append(f.Turning, turning{number, token, time.Now().UTC()})
	return f
}

// unmarked is the family when a process does not go on to switch.
func (f family) unmarked(token string) family {
	f = f.settled()
	f.Turning = slices.DeleteFunc(f.Turning, func(t turning) bool { return t.Token == token })
	return f
}

func (f family) isTurning(number int) bool {
	return slices.ContainsFunc(f.Turning, func(t turning) bool { return t.Number == number })
}

// turned is the family once a generation is live. What is to be dropped then is
// found by a sweep.
func (f family) turned(to int) (next family, err error) {
	f.Lineage, _, err = f.Turn(to)
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
func (f family) begun(token string) family {
	f.Lineage = f.Begin()
	f = f.settled()
	if f.Builders == nil {
		f.Builders = map[int]builder{}
	}
	f.Builders[f.Last] = builder{token, time.Now().UTC()}
	return f
}

// built are the generations that a process builds.
func (f family) built(token string) []int {
	return slices.DeleteFunc(slices.Clone(f.Building), func(n int) bool { return f.Builders[n].Token != token })
}

// abandoned are those whose builders have not been heard of for long.
func (f family) abandoned() []int {
	f = f.settled()
	return slices.DeleteFunc(slices.Clone(f.Building), func(n int) bool {
		return f.isTurning(n) || time.Since(f.Builders[n].Seen) < abandonAfter
	})
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
	numbers := append([]int{f.Live}, f.Building...)
	if f.Previous != 0 {
		numbers = append(numbers, f.Previous)
	}
	return numbers
}

// readFamily gives a view's lineage as it is now. It is not there before the
// view was first opened.
func (d *DB) readFamily(ctx context.Context, view string) (f family, at *seen, err error) {
	docs, err := d.c.documents(ctx, d.index(lineages.name), []ref{{ID: view}}, true)
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
