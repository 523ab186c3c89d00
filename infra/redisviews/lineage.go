package redisviews

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"cartwright/projections"
)

// A lineage is what one key says of the generations there are. It is compared
// as the bytes it is stored as, which never come again, as changes are counted.
type lineage struct {
	projections.Lineage
	Epoch   string   `json:"epoch"`   // in the keys, so that no key of what was forgotten comes again
	Change  int64    `json:"change"`  // how often it changed
	Servers []string `json:"servers"` // the run ids of the servers that have the generations, in order

	raw string
}

var (
	// errMoved says that the lineage is no longer what an exchange took it for.
	errMoved = errors.New("the generations have changed")
	// errStranger says that a connection leads to a server that may have other data.
	errStranger = errors.New("the server has started since, or is another one")
)

func readLineage(raw string) (*lineage, error) {
	l := &lineage{raw: raw}
	if err := json.Unmarshal([]byte(raw), l); err != nil {
		return nil, fmt.Errorf("%w: decode the generations: %w", projections.ErrUnavailable, err)
	}
	return l, nil
}

// written gives a lineage as it is stored.
func (l lineage) written() (*lineage, error) {
	l.Change++
	raw, err := json.Marshal(l)
	l.raw = string(raw)
	return &l, err
}

// name is a generation's, in keys.
func (l lineage) name(number int) string { return fmt.Sprintf("%s.%d", l.Epoch, number) }

// has tells whether there is a generation.
func (l lineage) has(number int) bool {
	return slices.Contains(l.all(), number)
}

// all are the numbers of the generations there are.
func (l lineage) all() []int {
	return slices.Concat([]int{l.Live}, l.Kept(), l.Building)
}

// anew forgets all generations for a new, empty one. Its number is a time, so
// that none comes again whatever a server has forgotten.
func (l lineage) anew(servers []string) lineage {
	number := max(l.Last+1, int(time.Now().Unix()))
	return lineage{
		Lineage: projections.Lineage{Live: number, Last: number}, Epoch: token(), Change: l.Change, Servers: servers,
	}
}

// same tells whether two lineages are one, or both are not known.
func same(a, b *lineage) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.raw == b.raw
}

// look gives the lineage as it was seen last. It may be old: exec tells.
func (b *Buyers) look(ctx context.Context) (*lineage, error) {
	if l := b.seen.Load(); l != nil {
		return l, nil
	}
	b.changing.Lock()
	defer b.changing.Unlock()
	if l := b.seen.Load(); l != nil {
		return l, nil
	}
	return b.load(ctx)
}

// load asks for the lineage, begins one if there is none, and buries who died.
func (b *Buyers) load(ctx context.Context) (*lineage, error) {
	for range attempts {
		said, err := b.ask(ctx, b.enlisted.Load())
		if err != nil {
			return nil, err
		}
		if said.raw != "" && len(said.late) == 0 {
			return readLineage(said.raw)
		}
		if said.raw == "" {
			err = b.begin(ctx)
		} else {
			err = b.bury(ctx, said)
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%w: %w", projections.ErrUnavailable, errMoved)
}

// An answer is what the register says.
type answer struct {
	raw   string
	sweep string
	late  []string
}

// listen asks for the lineage in its turn.
func (b *Buyers) listen(ctx context.Context, sign bool) (answer, error) {
	b.changing.Lock()
	defer b.changing.Unlock()
	return b.ask(ctx, sign)
}

// ask asks for the lineage and, as a writer, signs the register. It takes down
// what it is told, so nobody else may ask or change it meanwhile: an answer that
// was overtaken would be taken for the newest
// (TestAnAnswerThatComesLateIsNotTakenForTheNewest).
func (b *Buyers) ask(ctx context.Context, sign bool) (answer, error) {
	id := ""
	if sign {
		id = b.id
	}
	result, err := b.db.run(ctx, askScript, b.registry(), id, b.cfg.Late.Milliseconds())
	if err != nil {
		return answer{}, fmt.Errorf("ask for the generations: %w", err)
	}
	said, err := readAnswer(result)
	if err == nil {
		err = b.note(said.raw)
	}
	return said, err
}

func readAnswer(result any) (said answer, err error) {
	parts, _ := result.([]any)
	if len(parts) != 3 {
		return said, fmt.Errorf("ask for the generations: the answer is %v", result)
	}
	said.raw, _ = parts[0].(string)
	said.sweep, _ = parts[1].(string)
	late, _ := parts[2].([]any)
	for _, id := range late {
		said.late = append(said.late, fmt.Sprint(id))
	}
	return said, nil
}

// note takes down what the lineage is now.
func (b *Buyers) note(raw string) error {
	if was := b.seen.Load(); was != nil && was.raw == raw {
		return nil
	}
	if raw == "" {
		b.seen.Store(nil)
		return nil
	}
	is, err := readLineage(raw)
	if err == nil {
		b.seen.Store(is)
	}
	return err
}

// begin makes the first lineage.
func (b *Buyers) begin(ctx context.Context) error {
	servers, err := b.servers(ctx)
	if err != nil {
		return err
	}
	_, _, err = b.swap(ctx, "", lineage{}.anew(servers), true)
	return err
}

// swap stores a lineage if the one there is still the old one. Gone says that
// generations are gone, whose keys are to be swept. Buried are taken from the
// register in the same step.
func (b *Buyers) swap(ctx context.Context, old string, next lineage, gone bool, buried ...string) (is *lineage, done bool, err error) {
	if is, err = next.written(); err != nil {
		return nil, false, fmt.Errorf("encode the generations: %w", err)
	}
	args := []any{old, is.raw, flag(gone)}
	for _, id := range buried {
		args = append(args, id)
	}
	result, err := b.db.run(ctx, changeScript, b.registry(), args...)
	if err != nil {
		return nil, false, fmt.Errorf("store the generations: %w", err)
	}
	if result != int64(1) {
		return nil, false, nil
	}
	return is, true, b.note(is.raw)
}

func flag(on bool) string {
	if on {
		return "1"
	}
	return "0"
}

// change changes the lineage as told, on whatever it is by then. It gives the
// one it made.
func (b *Buyers) change(ctx context.Context, how func(lineage) (lineage, error)) (*lineage, error) {
	b.changing.Lock() // others make theirs meanwhile: what counts is compare and set
	defer b.changing.Unlock()
	for range attempts {
		was, err := b.load(ctx)
		if err != nil {
			return nil, err
		}
		next, err := how(*was)
		if err != nil {
			return nil, err
		}
		is, done, err := b.swap(ctx, was.raw, next, next.lacks(*was))
		if err != nil || done {
			return is, err
		}
	}
	return nil, fmt.Errorf("%w: %w", projections.ErrUnavailable, errMoved)
}

// lacks tells whether a generation is gone that there was.
func (l lineage) lacks(was lineage) bool {
	return slices.ContainsFunc(was.all(), func(n int) bool { return !l.has(n) })
}

// renew forgets everything there is.
func (b *Buyers) renew(ctx context.Context, reason string) error {
	servers, err := b.servers(ctx)
	if err != nil {
		return err
	}
	l, err := b.change(ctx, func(l lineage) (lineage, error) { return l.anew(servers), nil })
	if err != nil {
		return err
	}
	b.db.cfg.Log.Warn("the cache of orders begins anew", "reason", reason, "generation", l.Live)
	return nil
}

// bury begins anew after writers who ended without saying what they owe.
func (b *Buyers) bury(ctx context.Context, said answer) error {
	was, err := readLineage(said.raw)
	if err != nil {
		return err
	}
	_, done, err := b.swap(ctx, said.raw, was.anew(was.Servers), true, said.late...)
	if err == nil && done {
		b.db.cfg.Log.Warn("the cache of orders begins anew", "reason", "a writer has died", "writers", len(said.late))
	}
	return err
}

// acquaint deals with a server that was not known when l was. A writer begins
// anew even where others have already: what he wrote since may have gone to the
// server that was replaced.
func (b *Buyers) acquaint(ctx context.Context, l *lineage) error {
	b.meeting.Lock()
	defer b.meeting.Unlock()
	servers, err := b.servers(ctx)
	if err != nil {
		return err
	}
	if is := b.seen.Load(); is != nil && slices.Equal(is.Servers, servers) && slices.Equal(b.met, servers) {
		return nil // somebody else here has just met them
	}
	if err := b.relook(ctx, l); err != nil {
		return err
	}
	if is := b.seen.Load(); is == nil || !slices.Equal(is.Servers, servers) || b.enlisted.Load() {
		if err := b.renew(ctx, "a server came back, or is new"); err != nil {
			return err
		}
	}
	b.met = servers
	b.doubt()
	b.retired = append(b.retired, b.cache.reconnect(b.db.connect(b.meet)))
	return nil
}

// A cache is the connections to known servers. Those that were made before a
// strange one was met are not used any more: they may lead to one that was
// replaced.
type cache struct {
	mu     sync.RWMutex
	client redis.UniversalClient
}

func (c *cache) now() redis.UniversalClient {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.client
}

func (c *cache) reconnect(to redis.UniversalClient) (retired redis.UniversalClient) {
	c.mu.Lock()
	defer c.mu.Unlock()
	retired, c.client = c.client, to
	return retired
}

// retire closes connections that nobody uses any more.
func (b *Buyers) retire() error {
	b.meeting.Lock()
	defer b.meeting.Unlock()
	var errs []error
	for _, client := range b.retired {
		errs = append(errs, client.Close())
	}
	b.retired = nil
	return errors.Join(errs...)
}

// relook asks for the lineage again, unless another has since l.
func (b *Buyers) relook(ctx context.Context, l *lineage) error {
	b.changing.Lock()
	defer b.changing.Unlock()
	if !same(b.seen.Load(), l) {
		return nil
	}
	_, err := b.load(ctx)
	return err
}

// servers gives the run ids of all servers that take writes, in order.
func (b *Buyers) servers(ctx context.Context) ([]string, error) {
	var mu sync.Mutex
	var ids []string
	err := b.db.try(ctx, func(ctx context.Context) error {
		return everywhere(ctx, b.db.client, func(ctx context.Context, c *redis.Client) error {
			is, err := identify(ctx, c)
			mu.Lock()
			defer mu.Unlock()
			ids = append(ids, is.run)
			return err
		})
	})
	slices.Sort(ids)
	return ids, wrap(err, "ask for the servers' run ids")
}

// meet looks at a new connection: it is of no use if it leads to a server that
// the lineage does not know.
func (b *Buyers) meet(ctx context.Context, c *redis.Conn) error {
	is, err := identify(ctx, c)
	if err != nil {
		return err
	}
	if l := b.seen.Load(); l == nil || !slices.Contains(l.Servers, is.run) {
		return errStranger
	}
	if is.up < b.cfg.Settle {
		b.doubt()
	}
	return nil
}

// identity is what a server calls itself from its start to its end, and how
// long ago it started, if it says so.
type identity struct {
	run string
	up  time.Duration
}

func identify(ctx context.Context, c interface {
	Info(ctx context.Context, sections ...string) *redis.StringCmd
},
) (identity, error) {
	is := identity{up: math.MaxInt64}
	info, err := c.Info(ctx, "server").Result()
	if err != nil {
		return is, fmt.Errorf("ask a server for its run id: %w", err)
	}
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch name {
		case "run_id":
			is.run = value
		case "uptime_in_seconds":
			if seconds, no := strconv.ParseInt(value, 10, 32); no == nil {
				is.up = time.Duration(seconds) * time.Second
			}
		}
	}
	if is.run == "" {
		return is, errors.New("the server does not tell its run id, so that it can't be noticed when it comes back with older data")
	}
	return is, nil
}
