package commands_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"cartwright/commands"
	"cartwright/domain"
	"cartwright/domain/money"
)

// A bank is a payment channel that keeps its books in memory, and fails, waits or
// refuses as it is told.
type bank struct {
	mu       sync.Mutex
	payments map[string]*bankPayment
	refunds  map[string]*commands.Notice // by key
	trades   int

	away    func() error // asked before and after each call; nil is never
	slow    bool         // refunds take their time
	refuses bool         // refunds, for good
	closed  bool         // takes no payments
}

type bankPayment struct {
	total    money.Money
	trade    string
	paid     money.Money // the last time
	took     int64       // in all
	at       time.Time
	closed   bool
	refunded int64
}

func newBank() *bank {
	return &bank{payments: map[string]*bankPayment{}, refunds: map[string]*commands.Notice{}}
}

var errAway = &domain.Error{Code: domain.Unavailable, Reason: "channel_unavailable", Detail: "The bank is away."}

func (b *bank) ask() error {
	if b.away == nil {
		return nil
	}
	return b.away()
}

func (b *bank) Ask(_ context.Context, p commands.Asking) (commands.Instruction, error) {
	if err := b.ask(); err != nil {
		return commands.Instruction{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return commands.Instruction{}, domain.Refuse(domain.Rejected, "channel_refused", "The bank takes no payments today.")
	}
	if b.payments[p.Payment] == nil {
		b.payments[p.Payment] = &bankPayment{total: p.Total}
	}
	return commands.Instruction{Reference: "ref-" + p.Payment, Data: json.RawMessage(`{"code":"` + p.Payment + `"}`)}, b.ask()
}

// pay is the buyer, who pays what he likes. It gives what the bank calls back with.
func (b *bank) pay(id string, amount int64, currency string) commands.Notice {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.payments[id]
	if p == nil {
		p = &bankPayment{}
		b.payments[id] = p
	}
	b.trades++
	p.took += amount
	p.trade, p.paid, p.at = "trade-"+strconv.Itoa(b.trades), money.Money{Amount: amount, Currency: currency}, time.UnixMilli(int64(b.trades))
	return b.told(id)
}

func (b *bank) told(id string) commands.Notice {
	p := b.payments[id]
	switch {
	case p == nil:
		return commands.Notice{Kind: commands.NoticePending, Payment: id}
	case p.trade != "":
		return commands.Notice{Kind: commands.NoticePaid, Payment: id, Trade: p.trade, Money: p.paid, At: p.at}
	case p.closed:
		return commands.Notice{Kind: commands.NoticeFailed, Payment: id, Note: "closed"}
	}
	return commands.Notice{Kind: commands.NoticePending, Payment: id}
}

func (b *bank) Find(_ context.Context, id string) (commands.Notice, error) {
	if err := b.ask(); err != nil {
		return commands.Notice{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.told(id), nil
}

func (b *bank) Close(_ context.Context, id string) (commands.Notice, error) {
	if err := b.ask(); err != nil {
		return commands.Notice{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.payments[id]; p != nil {
		p.closed = true
	}
	return b.told(id), b.ask()
}

func (b *bank) Refund(_ context.Context, r commands.Returning) (commands.Notice, error) {
	if err := b.ask(); err != nil {
		return commands.Notice{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.refunds[r.Key]
	if n == nil {
		p := b.payments[r.Payment]
		if b.refuses || p == nil || p.refunded+r.Amount.Amount > p.took {
			return commands.Notice{}, domain.Refuse(domain.Rejected, "channel_refused", "The bank gives nothing back.")
		}
		p.refunded += r.Amount.Amount
		n = &commands.Notice{Kind: commands.NoticeRefunded, Payment: r.Payment, Refund: r.Key, Money: r.Amount}
		b.refunds[r.Key] = n
	}
	if b.slow {
		return commands.Notice{Kind: commands.NoticePending, Payment: r.Payment, Refund: r.Key}, nil
	}
	return *n, b.ask()
}

// out is how much the bank has of ours: what it took less what it gave back.
func (b *bank) out() (sum int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.payments {
		sum += p.took - p.refunded
	}
	return sum
}

// stray is how much was paid for nothing that it was asked for.
func (b *bank) stray() (sum int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, p := range b.payments {
		if strings.HasPrefix(id, "nobody") {
			sum += p.took
		}
	}
	return sum
}

// alarms keeps what a person would have to see.
type alarms struct {
	mu   sync.Mutex
	seen []string
}

func (a *alarms) raise(_ context.Context, one commands.Alarm) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen = append(a.seen, one.Kind)
}

func (a *alarms) kinds() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return fmt.Sprint(a.seen)
}
