package pace_test

import (
	"testing"
	"testing/synctest"
	"time"

	"cartwright/infra/pace"
)

const spacing = 20 * time.Millisecond

func TestWhoHasRestedBeginsSomeAtOnceAndThenOneASpacing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pace.Pace{Spacing: spacing}
		for range 3 {
			began := time.Now()
			for i := range pace.Credit {
				if early := p.Early(); early > 0 {
					t.Errorf("batch %d would wait for %s", i, early)
				}
				p.Spend()
			}
			for range 10 {
				time.Sleep(p.Early())
				p.Spend()
			}
			if took := time.Since(began); took != 10*spacing {
				t.Errorf("ten more batches took %s", took)
			}
			time.Sleep(time.Minute)
		}
	})
}

func TestFullBatchesMakeNoDebt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pace.Pace{Spacing: spacing}
		for range 1000 {
			p.Spend() // it waited for nothing
		}
		if early := p.Early(); early > spacing {
			t.Errorf("the next one would wait for %s", early)
		}
	})
}
