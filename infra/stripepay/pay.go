package stripepay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/stripe/stripe-go/v84"

	"cartwright/commands"
	"cartwright/domain"
	"cartwright/domain/money"
	"cartwright/infra/outward"
)

var _ commands.Channel = (*Client)(nil)

// What our ids are made of. Nothing of it needs quoting in a search.
var (
	ourID    = regexp.MustCompile(`^[0-9A-Za-z-]{1,32}$`)
	ourKey   = regexp.MustCompile(`^[0-9A-Za-z.-]{1,64}$`)
	ofMethod = regexp.MustCompile(`^[a-z0-9_]{1,40}$`)
)

// Keys of the metadata.
const (
	metaPayment = "payment"
	metaRefund  = "refund"
	metaReason  = "reason"
)

const maxText = 500 // bytes of a description or of metadata, by Stripe's documents

// Ask makes an intent, or finds the one that was made in the day before.
func (c *Client) Ask(ctx context.Context, p commands.Asking) (commands.Instruction, error) {
	const doing = "take the payment"
	params, err := c.params(p)
	if err != nil {
		return commands.Instruction{}, err
	}
	got, err := c.api.V1PaymentIntents.Create(ctx, params)
	switch {
	case err != nil:
		return commands.Instruction{}, known(doing, err)
	case got.ID == "" || got.ClientSecret == "" || got.Metadata[metaPayment] != p.Payment:
		return commands.Instruction{}, unavailable(doing, errors.New("the answer is not whole, or about another"))
	}
	c.known.add(p.Payment, got.ID)
	data := map[string]string{"client_secret": got.ClientSecret, "intent": got.ID}
	if c.publishable != "" {
		data["publishable_key"] = c.publishable
	}
	raw, err := json.Marshal(data)
	if err != nil {
		return commands.Instruction{}, fmt.Errorf("write the instruction: %w", err)
	}
	return commands.Instruction{Reference: got.ID, Data: raw}, nil
}

func (c *Client) params(p commands.Asking) (*stripe.PaymentIntentCreateParams, error) {
	switch {
	case !ourID.MatchString(p.Payment):
		return nil, outward.Refuse("Stripe is given 32 letters, digits and dashes at most for a payment's id.")
	case p.Total.Amount <= 0:
		return nil, outward.Refuse("Stripe takes amounts of more than nothing.")
	case !p.Expires.IsZero() && !c.now().Before(p.Expires):
		return nil, outward.Refuse("The payment has expired.")
	}
	amount, err := stripes(p.Total)
	if err != nil {
		return nil, outward.Refuse("%s.", err)
	}
	params := &stripe.PaymentIntentCreateParams{
		Amount: &amount, Currency: new(strings.ToLower(p.Total.Currency)), Metadata: map[string]string{metaPayment: p.Payment},
	}
	params.SetIdempotencyKey("payment-" + p.Payment)
	if p.Subject != "" {
		params.Description = new(outward.Cut(p.Subject, maxText))
	}
	for name := range p.Options {
		if name != "method" {
			return nil, badOption(name, "is nothing that Stripe has")
		}
	}
	method := p.Options["method"]
	switch {
	case method == "":
		params.AutomaticPaymentMethods = &stripe.PaymentIntentCreateAutomaticPaymentMethodsParams{Enabled: new(true)}
	case ofMethod.MatchString(method):
		params.PaymentMethodTypes = []*string{&method}
	default:
		return nil, badOption("method", "is the name of a type, such as card")
	}
	return params, nil
}

func badOption(name, why string) error {
	e := domain.Refuse(domain.Invalid, "channel_option", "The option %s %s.", name, why)
	e.Fields = []domain.Field{{Pointer: "/options/" + name, Detail: e.Detail}}
	return e
}

// Find tells what has become of a payment.
func (c *Client) Find(ctx context.Context, payment string) (commands.Notice, error) {
	found, err := c.find(ctx, payment)
	if err != nil {
		return commands.Notice{}, err
	}
	return foremost(payment, found), nil
}

// foremost is what counts of a payment's intents: that one was paid, else that
// one may still be. There is more than one only if somebody asked days apart.
func foremost(payment string, all []commands.Notice) commands.Notice {
	for _, kind := range []commands.NoticeKind{commands.NoticePaid, commands.NoticePending, commands.NoticeFailed} {
		for _, n := range all {
			if n.Kind == kind {
				return n
			}
		}
	}
	return commands.Notice{Kind: commands.NoticePending, Payment: payment}
}

// find asks for every intent of a payment that can be known of.
func (c *Client) find(ctx context.Context, payment string) ([]commands.Notice, error) {
	const doing = "find the payment"
	if !ourID.MatchString(payment) {
		return nil, nil // Stripe can't have it
	}
	ids := c.known.of(payment)
	if len(ids) == 0 {
		found, err := c.search(ctx, payment)
		if err != nil {
			return nil, known(doing, err)
		}
		ids = found
	}
	var all []commands.Notice
	for _, id := range ids {
		n, err := c.retrieve(ctx, payment, id)
		if codeOf(err) == stripe.ErrorCodeResourceMissing {
			continue // test data can be deleted
		}
		if err != nil {
			return nil, err
		}
		all = append(all, n)
	}
	return all, nil
}

// search gives ids only: what the index says of an intent may be of yesterday.
func (c *Client) search(ctx context.Context, payment string) (ids []string, err error) {
	params := &stripe.PaymentIntentSearchParams{SearchParams: stripe.SearchParams{
		Query: "metadata['" + metaPayment + "']:'" + payment + "'", Limit: new(int64(100)), Single: true,
	}}
	for got, err := range c.api.V1PaymentIntents.Search(ctx, params) {
		switch {
		case err != nil:
			return nil, err
		case got == nil || got.Metadata[metaPayment] != payment:
			continue
		}
		ids = append(ids, got.ID)
		c.known.add(payment, got.ID)
	}
	return ids, nil
}

func (c *Client) retrieve(ctx context.Context, payment, id string) (commands.Notice, error) {
	const doing = "find the payment"
	got, err := c.api.V1PaymentIntents.Retrieve(ctx, id, &stripe.PaymentIntentRetrieveParams{Expand: []*string{new("latest_charge")}})
	switch {
	case codeOf(err) == stripe.ErrorCodeResourceMissing:
		return commands.Notice{}, err
	case err != nil:
		return commands.Notice{}, known(doing, err)
	}
	n, err := c.notice(payment, got)
	if err != nil {
		return commands.Notice{}, unavailable(doing, err)
	}
	return n, nil
}

func (c *Client) notice(payment string, got *stripe.PaymentIntent) (commands.Notice, error) {
	i := intent{
		ID: got.ID, Status: string(got.Status), Currency: string(got.Currency), Received: &got.AmountReceived,
		Metadata: got.Metadata, Live: got.Livemode, Why: string(got.CancellationReason),
	}
	if i.ID == "" || i.Metadata[metaPayment] != payment || i.Live != c.live {
		return commands.Notice{}, errors.New("the answer is about another")
	}
	n, err := i.notice()
	if n.Kind == commands.NoticePaid && got.LatestCharge != nil && got.LatestCharge.Created > 0 {
		n.At = time.Unix(got.LatestCharge.Created, 0).UTC()
	}
	return n, err
}

// An intent is what answers and callbacks tell of one, in every version.
type intent struct {
	ID       string            `json:"id"`
	Object   string            `json:"object"`
	Status   string            `json:"status"`
	Currency string            `json:"currency"`
	Received *int64            `json:"amount_received"`
	Metadata map[string]string `json:"metadata"`
	Live     bool              `json:"livemode"`
	Why      string            `json:"cancellation_reason"`
}

func (i intent) notice() (commands.Notice, error) {
	n := commands.Notice{Payment: i.Metadata[metaPayment], Trade: i.ID}
	switch stripe.PaymentIntentStatus(i.Status) {
	case stripe.PaymentIntentStatusSucceeded:
		m, err := amount(i.Received, i.Currency)
		if err != nil {
			return commands.Notice{}, err
		}
		n.Kind, n.Money = commands.NoticePaid, m
	case stripe.PaymentIntentStatusCanceled:
		n.Kind, n.Note = commands.NoticeFailed, strings.TrimSuffix("canceled: "+outward.Cut(i.Why, outward.MaxWords), ": ")
	case "":
		return commands.Notice{}, errors.New("an intent without a status")
	default:
		n.Kind = commands.NoticePending
	}
	return n, nil
}

func amount(of *int64, currency string) (money.Money, error) {
	if of == nil || *of <= 0 || currency == "" {
		return money.Money{}, errors.New("there is no amount")
	}
	return ours(*of, strings.ToUpper(currency))
}

// Close cancels every intent of a payment that nobody has paid.
func (c *Client) Close(ctx context.Context, payment string) (commands.Notice, error) {
	all, err := c.find(ctx, payment)
	if err != nil {
		return commands.Notice{}, err
	}
	for i, n := range all {
		if n.Kind != commands.NoticePending {
			continue
		}
		if all[i], err = c.cancel(ctx, payment, n.Trade); err != nil {
			return commands.Notice{}, err
		}
	}
	if len(all) == 0 {
		return commands.Notice{Kind: commands.NoticeFailed, Payment: payment, Note: "never begun"}, nil
	}
	return foremost(payment, all), nil
}

func (c *Client) cancel(ctx context.Context, payment, id string) (commands.Notice, error) {
	const doing = "close the payment"
	got, err := c.api.V1PaymentIntents.Cancel(ctx, id, &stripe.PaymentIntentCancelParams{CancellationReason: new("abandoned")})
	var n commands.Notice
	switch {
	case err == nil:
		if n, err = c.notice(payment, got); err != nil {
			return commands.Notice{}, unavailable(doing, err)
		}
	case codeOf(err) == stripe.ErrorCodePaymentIntentUnexpectedState:
		if n, err = c.retrieve(ctx, payment, id); codeOf(err) == stripe.ErrorCodeResourceMissing {
			return commands.Notice{}, known(doing, err)
		}
	default:
		return commands.Notice{}, known(doing, err)
	}
	if err == nil && n.Kind == commands.NoticePending { // it is being processed, and can't be stopped now
		return commands.Notice{}, unavailable(doing, errors.New("the intent is being processed"))
	}
	return n, err
}
