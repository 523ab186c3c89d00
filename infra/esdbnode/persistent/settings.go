package persistent

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Settings are what a group was created with. In JSON they are an entry of the
// stored configuration, under the names that EventStoreDB has for them.
type Settings struct {
	Stream          string  `json:"stream"` // All for the whole log
	Group           string  `json:"group"`
	Filter          *Filter `json:"filter,omitempty"` // of the whole log, nil for every event
	ResolveLinks    bool    `json:"resolveLinkTos"`
	ExtraStatistics bool    `json:"extraStatistics"`
	StartPosition   string  `json:"startPosition"` // as it was asked for
	First           uint64  `json:"first"`         // the place that this meant when it was asked for
	MessageTimeout  int     `json:"messageTimeout"`
	MaxRetries      int     `json:"maxRetryCount"`
	LiveBuffer      int     `json:"liveBufferSize"`
	HistoryBuffer   int     `json:"historyBufferSize"`
	ReadBatch       int     `json:"readBatchSize"`
	CheckpointAfter int     `json:"checkPointAfter"`
	MinCheckpoint   int     `json:"minCheckPointCount"`
	MaxCheckpoint   int     `json:"maxCheckPointCount"`
	MaxSubscribers  int     `json:"maxSubscriberCount"`
	Strategy        string  `json:"namedConsumerStrategy"`
}

// maxBuffer is the most events a group may be told to buffer. It would not keep
// so many (maxHeld), but a number beyond that is a mistake.
const maxBuffer = 1 << 20

// Check says what is wrong with settings that make no sense.
func (s Settings) Check() error {
	for _, n := range [...]struct {
		name        string
		value       int
		least, most int
	}{
		{"message_timeout", s.MessageTimeout, 0, math.MaxInt32},
		{"max_retry_count", s.MaxRetries, 0, math.MaxInt32},
		{"live_buffer_size", s.LiveBuffer, 1, maxBuffer},
		{"history_buffer_size", s.HistoryBuffer, 1, maxBuffer},
		{"read_batch_size", s.ReadBatch, 1, maxBuffer},
		{"checkpoint_after", s.CheckpointAfter, 0, math.MaxInt32},
		{"min_checkpoint_count", s.MinCheckpoint, 0, math.MaxInt32},
		{"max_checkpoint_count", s.MaxCheckpoint, 0, math.MaxInt32},
		{"max_subscriber_count", s.MaxSubscribers, 0, math.MaxInt32},
	} {
		if n.value < n.least || n.value > n.most {
			return fmt.Errorf("%s is %d: it may be from %d to %d", n.name, n.value, n.least, n.most)
		}
	}
	switch {
	case s.Stream == "":
		return errors.New("bad stream name: it is empty")
	case s.Group == "":
		return errors.New("bad group name: it is empty")
	case s.ReadBatch >= s.HistoryBuffer:
		return fmt.Errorf("read_batch_size (%d) may not be greater than or equal to history_buffer_size (%d)", s.ReadBatch, s.HistoryBuffer)
	case s.MinCheckpoint > s.MaxCheckpoint:
		return fmt.Errorf("min_checkpoint_count (%d) may not be greater than max_checkpoint_count (%d)", s.MinCheckpoint, s.MaxCheckpoint)
	case newStrategy(s.Strategy) == nil:
		return fmt.Errorf("consumer strategy %q does not exist: there are %s", s.Strategy, strings.Join(strategyNames(), ", "))
	}
	return s.Filter.compile()
}

// key names a group, and what it stores.
func (s Settings) key() string { return s.Stream + "::" + s.Group }

const ownPrefix = "$persistentsubscription-"

func (s Settings) parkedStream() string     { return ownPrefix + s.key() + "-parked" }
func (s Settings) checkpointStream() string { return ownPrefix + s.key() + "-checkpoint" }

func (s Settings) timeout() time.Duration { return time.Duration(s.MessageTimeout) * time.Millisecond }

func (s Settings) checkpointAfter() time.Duration {
	return time.Duration(s.CheckpointAfter) * time.Millisecond
}

// text writes a place as it is stored and told.
func (s Settings) text(at uint64) string {
	n := strconv.FormatUint(at, 10)
	if s.Stream == All {
		return "C:" + n + "/P:" + n
	}
	return n
}

// place reads what text wrote.
func (s Settings) place(text string) (uint64, error) {
	n := text
	if s.Stream == All {
		commit, _, ok := strings.Cut(text, "/P:")
		rest, begins := strings.CutPrefix(commit, "C:")
		if !ok || !begins {
			return 0, fmt.Errorf("%q is no position", text)
		}
		n = rest
	}
	at, err := strconv.ParseUint(n, 10, 63)
	if err != nil {
		return 0, fmt.Errorf("%q is no place in %s: %w", text, s.Stream, err)
	}
	return at, nil
}

// at is the place of an event in what the group reads.
func (s Settings) at(e *Event) uint64 {
	if s.Stream == All {
		return e.Position
	}
	return e.Number
}

// match tells what of the whole log the group reads. Its own parked events, and
// the checkpoints of all groups, are not among that: each would be the cause of
// the next.
func (s Settings) match(skipped *int64) func(stream, kind string) bool {
	parked := s.parkedStream()
	return func(stream, kind string) bool {
		about := stream // of metadata, the stream it is about
		if rest, ok := strings.CutPrefix(stream, "$$"); ok && strings.HasPrefix(rest, ownPrefix) {
			about = rest
		}
		if about == parked || strings.HasPrefix(about, ownPrefix) && strings.HasSuffix(about, "-checkpoint") {
			return false
		}
		if !s.Filter.matches(stream, kind) {
			*skipped++
			return false
		}
		return true
	}
}

// A Filter chooses events of the whole log by stream or by type, with prefixes
// or with a pattern.
type Filter struct {
	ByType   bool     `json:"byType"`
	Prefixes []string `json:"prefixes,omitempty"`
	Pattern  string   `json:"regex,omitempty"`

	pattern *regexp.Regexp
}

func (f *Filter) compile() error {
	switch {
	case f == nil || f.pattern != nil:
		return nil
	case f.Pattern == "" && len(f.Prefixes) == 0:
		return errors.New("the filter has neither prefixes nor a pattern")
	case f.Pattern == "":
		return nil
	}
	pattern, err := regexp.Compile(f.Pattern)
	if err != nil {
		return fmt.Errorf("the filter's pattern: %w", err)
	}
	f.pattern = pattern
	return nil
}

func (f *Filter) matches(stream, kind string) bool {
	if f == nil {
		return true
	}
	text := stream
	if f.ByType {
		text = kind
	}
	if f.pattern != nil {
		return f.pattern.MatchString(text)
	}
	for _, p := range f.Prefixes {
		if strings.HasPrefix(text, p) {
			return true
		}
	}
	return false
}
