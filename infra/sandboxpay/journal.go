package sandboxpay

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/gofrs/flock"
)

var errJournalClosed = errors.New("the journal is closed")

// A journal is the file that records are appended to. A nil one keeps nothing.
type journal struct {
	lock *flock.Flock

	mu   sync.Mutex
	buf  []byte // not written yet
	last uint64 // records so far

	writing sync.Mutex // held while the file is written; taken before mu
	file    *os.File
	err     error // for ever: what is on disk is not known any more
	durable atomic.Uint64
}

// openJournal opens the journal in dir, makes it if there is none, and gives
// each record in it to replay. Nobody else may have it open.
func openJournal(dir, merchant string, replay func(record) error) (*journal, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, err
	}
	lock := flock.New(filepath.Join(dir, "LOCK"))
	if taken, err := lock.TryLock(); err != nil || !taken {
		return nil, errors.Join(err, fmt.Errorf("%s is in use by another sandbox", dir))
	}
	j := &journal{lock: lock}
	if err := j.open(filepath.Join(dir, "journal.jsonl"), merchant, replay); err != nil {
		if j.file != nil {
			_ = j.file.Close()
		}
		return nil, errors.Join(err, lock.Unlock())
	}
	return j, nil
}

func (j *journal) open(path, merchant string, replay func(record) error) (err error) {
	if j.file, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600); err != nil { //nolint:gosec // the operator names it
		return err
	}
	raw, err := io.ReadAll(j.file)
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	whole := bytes.LastIndexByte(raw, '\n') + 1
	if err = readLines(raw[:whole], merchant, replay); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if whole < len(raw) {
		if err = errors.Join(j.file.Truncate(int64(whole)), j.file.Sync()); err != nil {
			return fmt.Errorf("cut the torn end off %s: %w", path, err)
		}
	}
	if _, err = j.file.Seek(int64(whole), io.SeekStart); err != nil {
		return fmt.Errorf("end of %s: %w", path, err)
	}
	if whole > 0 {
		return nil
	}
	seq, err := j.append(record{Do: didOpen, Merchant: merchant, Format: journalFormat})
	if err != nil {
		return err
	}
	return errors.Join(j.sync(seq), syncDir(filepath.Dir(path)))
}

// readLines gives the records to replay, but for the first, which says whose
// they are.
func readLines(raw []byte, merchant string, replay func(record) error) error {
	number := 0
	for line := range bytes.Lines(raw) {
		number++
		r, err := decodeOne[record](line)
		switch {
		case err != nil:
		case number > 1:
			err = replay(r)
		case r.Do != didOpen || r.Format != journalFormat:
			err = fmt.Errorf("it is no journal of format %d", journalFormat)
		case r.Merchant != merchant:
			err = fmt.Errorf("it is merchant %s's", quoted(r.Merchant))
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", number, err)
		}
	}
	return nil
}

// append adds a record, which sync brings to disk.
func (j *journal) append(r record) (uint64, error) {
	if j == nil {
		return 0, nil
	}
	line, err := json.Marshal(r)
	if err != nil {
		return 0, fmt.Errorf("record %s: %w", r.Do, err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.buf = append(append(j.buf, line...), '\n')
	j.last++
	return j.last, nil
}

// newest is the number of the last record.
func (j *journal) newest() uint64 {
	if j == nil {
		return 0
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.last
}

// sync returns when all records up to seq are on disk. Who waits for the writer
// finds most often that it was written together with others.
func (j *journal) sync(seq uint64) error {
	if j == nil || j.durable.Load() >= seq {
		return nil
	}
	j.writing.Lock()
	defer j.writing.Unlock()
	if j.durable.Load() >= seq {
		return nil // by the writer that was waited for
	}
	if j.err != nil {
		return j.err
	}
	j.mu.Lock()
	buf, last := j.buf, j.last
	j.buf = nil
	j.mu.Unlock()
	if _, err := j.file.Write(buf); err != nil {
		j.err = fmt.Errorf("write the journal: %w", err)
		return j.err
	}
	if err := j.file.Sync(); err != nil {
		j.err = fmt.Errorf("write the journal to disk: %w", err)
		return j.err
	}
	j.durable.Store(last)
	return nil
}

// close writes what there is, and lets go of the file.
func (j *journal) close() error {
	if j == nil {
		return nil
	}
	err := j.sync(j.newest())
	j.writing.Lock()
	defer j.writing.Unlock()
	if errors.Is(j.err, errJournalClosed) {
		return nil
	}
	j.err = errJournalClosed
	return errors.Join(err, j.file.Close(), j.lock.Unlock())
}

func syncDir(dir string) error {
	d, err := os.Open(dir) //nolint:gosec // the operator names it
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
