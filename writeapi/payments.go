package writeapi

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"cartwright/commands"
	"cartwright/domain"
	"cartwright/domain/event"
	"cartwright/domain/money"
	"cartwright/domain/payment"
	"cartwright/infra/httpedge"
	"cartwright/infra/problem"
)

// A Listener reads what a payment channel sends. It verifies who says so.
type Listener interface {
	// Read gives what a callback says. It fails where it can't be believed.
	Read(ctx context.Context, header http.Header, body []byte) ([]commands.Notice, error)
	// Answer is what the channel is told: nil that what it said is on record.
	Answer(err error) (status int, contentType string, body []byte)
}

// maxCallback is how long a callback may be.
const maxCallback = 256 << 10

type paymentBody struct {
	Channel        string            `json:"channel"`
	ExpectedAmount *money.Money      `json:"expected_amount,omitempty"`
	Options        map[string]string `json:"options,omitempty"`
}

func (b paymentBody) check(f *faults) {
	f.add(payment.CheckChannel("/channel", b.Channel))
	f.amount("/expected_amount", b.ExpectedAmount, 0)
	f.require(len(b.Options) <= maxOptions, "too_many_options", "/options", "A payment has at most 20 options.")
	for name, value := range b.Options {
		f.text("/options", name, maxText)
		f.text("/options/"+name, value, maxText)
	}
}

const maxOptions = 20

type paymentAnswer struct {
	PaymentID   string          `json:"payment_id"`
	CheckoutID  string          `json:"checkout_id"`
	Channel     string          `json:"channel"`
	Amount      money.Money     `json:"amount"`
	Orders      []string        `json:"orders"`
	ExpiresAt   time.Time       `json:"expires_at"`
	Reference   string          `json:"reference,omitempty"`
	Instruction json.RawMessage `json:"instruction"`
}

func (a *api) startPayment(ctx context.Context, in input[paymentBody]) (answer, error) {
	asked, err := a.Shop.StartPayment(ctx, in.req, commands.PaymentRequest{
		Checkout: in.to.order, Channel: in.body.Channel, Expected: in.body.ExpectedAmount, Options: in.body.Options,
	})
	if err != nil {
		return answer{}, err
	}
	p := asked.Payment
	told := paymentAnswer{
		PaymentID: p.ID, CheckoutID: p.Checkout, Channel: p.Channel, Amount: money.Money{Amount: p.Amount, Currency: p.Currency},
		ExpiresAt: p.Expires.UTC(), Reference: p.Reference, Instruction: p.Instruction,
	}
	for _, s := range p.Splits {
		told.Orders = append(told.Orders, s.Order)
	}
	if told.Instruction == nil { // the money was quicker than the channel's answer
		told.Instruction = json.RawMessage("{}")
	}
	return answer{
		created: true, repeated: asked.Repeated, location: "/v1/payments/" + p.ID,
		streams: map[string]event.Revision{asked.Stream: asked.Revision}, body: told,
	}, nil
}

type redirectBody struct {
	To payment.Way `json:"to"`
}

func (b redirectBody) check(f *faults) {
	f.require(b.To == payment.ToChannel || b.To == payment.ToBalance, "unknown_way", "/to", `This is "channel" or "balance".`)
}

type returnBody struct {
	Trade string `json:"trade"`
}

func (b returnBody) check(f *faults) {
	f.present(b.Trade != "", "/trade")
	f.text("/trade", b.Trade, maxCarrier)
}

type resolveBody struct {
	Reason string `json:"reason"`
	By     string `json:"by,omitempty"`
}

func (b resolveBody) check(f *faults) {
	f.present(b.Reason != "", "/reason")
	f.text("/reason", b.Reason, maxText)
	f.text("/by", b.By, maxText)
}

type tradeAnswer struct {
	Channel string `json:"channel"`
	Trade   string `json:"trade"`
}

func (a *api) resolveTrade(ctx context.Context, in input[resolveBody]) (answer, error) {
	done, err := a.Shop.ResolveTrade(ctx, in.req, in.to.channel, in.to.trade, in.by(in.body.By), in.body.Reason)
	if err != nil {
		return answer{}, err
	}
	return answer{repeated: done.Repeated, streams: done.Streams, body: tradeAnswer{in.to.channel, in.to.trade}}, nil
}

type paymentChanged struct {
	PaymentID string         `json:"payment_id"`
	Refund    string         `json:"refund"`
	Revision  event.Revision `json:"revision"`
}

func (a *api) redirectRefund(ctx context.Context, in input[redirectBody]) (answer, error) {
	done, err := a.Shop.RedirectRefund(ctx, in.req, in.to.payment, payment.RedirectRefund{Refund: in.to.refund, To: in.body.To})
	if err != nil {
		return answer{}, err
	}
	return tellPayment(in.to.payment, in.to.refund, done), nil
}

func (a *api) returnTrade(ctx context.Context, in input[returnBody]) (answer, error) {
	done, err := a.Shop.ReturnTrade(ctx, in.req, in.to.payment, in.body.Trade)
	if err != nil {
		return answer{}, err
	}
	for _, e := range done.Events {
		if asked, ok := e.(payment.RefundRequested); ok {
			out := tellPayment(in.to.payment, asked.Refund, done)
			out.created = true
			return out, nil
		}
	}
	return answer{}, domain.Refuse(domain.Conflict, "already_returned", "Trade %s was given back before.", in.body.Trade)
}

func tellPayment(id, refund string, done commands.Done[payment.Event]) answer {
	return answer{
		repeated: done.Repeated, etag: httpedge.ETag(done.Revision), streams: map[string]event.Revision{done.Stream: done.Revision},
		body: paymentChanged{PaymentID: id, Refund: refund, Revision: done.Revision},
	}
}

// callback takes what a channel says. It is answered in the channel's own words,
// and only once all of it is on record: an answer before that could lose money
// (TestAChannelIsToldOnlyWhatIsOnRecord).
func (a *api) callback(c *gin.Context) error {
	name := c.Param("channel")
	l, ok := a.Channels[name]
	if !ok {
		return domain.Refuse(domain.NotFound, "unknown_channel", "There is no payment channel %q here.", name)
	}
	body, err := io.ReadAll(http.MaxBytesReader(c.Writer, c.Request.Body, maxCallback))
	if err != nil {
		return problem.TooLarge(maxCallback)
	}
	err = a.take(c.Request.Context(), name, l, c.Request.Header, body)
	if err != nil {
		a.Log.WarnContext(c.Request.Context(), "callback was not taken", "channel", name, "err", err)
	}
	status, contentType, text := l.Answer(err)
	c.Data(status, contentType, text)
	return nil
}

func (a *api) take(ctx context.Context, channel string, l Listener, header http.Header, body []byte) error {
	notices, err := l.Read(ctx, header, body)
	if err != nil {
		return fmt.Errorf("read a callback: %w", err)
	}
	for _, n := range notices {
		if err := a.Shop.Notify(ctx, channel, n); err != nil {
			return fmt.Errorf("record %s of payment %s: %w", n.Kind, n.Payment, err)
		}
	}
	return nil
}
