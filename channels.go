package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"unicode"

	"cartwright/commands"
	"cartwright/infra/alipay"
	"cartwright/infra/sandboxpay"
	"cartwright/infra/stripepay"
	"cartwright/infra/wechatpay"
	"cartwright/writeapi"
)

// channelConfig is where money from outside comes from. A channel that nothing
// is said of is not there.
type channelConfig struct {
	PublicURL string `env:"CARTWRIGHT_PUBLIC_URL"` // under which channels reach this API

	Sandbox struct {
		URL        string `env:"URL"`
		Merchant   string `env:"MERCHANT" envDefault:"cartwright"`
		Secret     string `env:"SECRET"`
		SecretFile string `env:"SECRET_FILE"`
	} `envPrefix:"CARTWRIGHT_SANDBOX_"`

	WeChat struct {
		Merchant     string `env:"MERCHANT"`
		App          string `env:"APP"`
		Serial       string `env:"SERIAL"`
		PrivateKey   string `env:"PRIVATE_KEY_FILE"`
		Key          string `env:"API_KEY"`
		KeyFile      string `env:"API_KEY_FILE"`
		PublicKeyID  string `env:"PUBLIC_KEY_ID"`
		PublicKey    string `env:"PUBLIC_KEY_FILE"`
		Certificates string `env:"CERTIFICATES_FILE"`
	} `envPrefix:"CARTWRIGHT_WECHAT_"`

	Alipay struct {
		App               string `env:"APP"`
		Seller            string `env:"SELLER"`
		PrivateKey        string `env:"PRIVATE_KEY_FILE"`
		PublicKey         string `env:"PUBLIC_KEY_FILE"`
		AppCertificate    string `env:"APP_CERTIFICATE_FILE"`
		AlipayCertificate string `env:"CERTIFICATE_FILE"`
		RootCertificate   string `env:"ROOT_CERTIFICATE_FILE"`
		ReturnURL         string `env:"RETURN_URL"`
		URL               string `env:"URL"`
	} `envPrefix:"CARTWRIGHT_ALIPAY_"`

	Stripe struct {
		Key                string `env:"SECRET_KEY"`
		KeyFile            string `env:"SECRET_KEY_FILE"`
		Publishable        string `env:"PUBLISHABLE_KEY"`
		WebhookSecrets     string `env:"WEBHOOK_SECRETS"` // one, or two while they change
		WebhookSecretsFile string `env:"WEBHOOK_SECRETS_FILE"`
		Account            string `env:"ACCOUNT"`
	} `envPrefix:"CARTWRIGHT_STRIPE_"`
}

// A payChannel takes money, and says what became of it.
type payChannel interface {
	commands.Channel
	writeapi.Listener
}

// open makes the channels that are set up. None of them is asked anything yet.
func (c channelConfig) open() (map[string]payChannel, error) {
	all := map[string]payChannel{}
	for _, one := range []struct {
		name string
		said bool
		make func(notify string) (payChannel, error)
	}{
		{"sandbox", c.Sandbox.URL != "", c.sandbox},
		{"wechat", c.WeChat.Merchant != "", c.wechat},
		{"alipay", c.Alipay.App != "", c.alipay},
		{"stripe", c.Stripe.Key+c.Stripe.KeyFile != "", c.stripe},
	} {
		if !one.said {
			continue
		}
		ch, err := one.make(c.PublicURL + "/v1/channels/" + one.name + "/callback")
		if err != nil {
			return nil, fmt.Errorf("payment channel %s: %w", one.name, err)
		}
		all[one.name] = ch
	}
	return all, nil
}

func (c channelConfig) sandbox(string) (payChannel, error) {
	word, err := secret(c.Sandbox.Secret, c.Sandbox.SecretFile)
	if err != nil {
		return nil, err
	}
	return sandboxpay.New(sandboxpay.Config{URL: c.Sandbox.URL, Merchant: c.Sandbox.Merchant, Secret: word})
}

func (c channelConfig) wechat(notify string) (payChannel, error) {
	w := c.WeChat
	key, err := secret(w.Key, w.KeyFile)
	if err != nil {
		return nil, err
	}
	cfg := wechatpay.Config{
		Merchant: w.Merchant, App: w.App, Serial: w.Serial, APIv3Key: key, PublicKeyID: w.PublicKeyID, NotifyURL: notify,
	}
	err = readFiles([]keyFile{{w.PrivateKey, &cfg.PrivateKey}, {w.PublicKey, &cfg.PublicKey}, {w.Certificates, &cfg.Certificates}})
	if err != nil {
		return nil, err
	}
	return wechatpay.New(cfg)
}

func (c channelConfig) alipay(notify string) (payChannel, error) {
	a := c.Alipay
	cfg := alipay.Config{App: a.App, Seller: a.Seller, NotifyURL: notify, ReturnURL: a.ReturnURL, URL: a.URL}
	err := readFiles([]keyFile{
		{a.PrivateKey, &cfg.PrivateKey},
		{a.PublicKey, &cfg.PublicKey},
		{a.AppCertificate, &cfg.AppCertificate},
		{a.AlipayCertificate, &cfg.AlipayCertificate},
		{a.RootCertificate, &cfg.RootCertificate},
	})
	if err != nil {
		return nil, err
	}
	return alipay.New(cfg)
}

func (c channelConfig) stripe(string) (payChannel, error) {
	key, err := secret(c.Stripe.Key, c.Stripe.KeyFile)
	if err != nil {
		return nil, err
	}
	webhooks, err := secret(c.Stripe.WebhookSecrets, c.Stripe.WebhookSecretsFile)
	if err != nil {
		return nil, err
	}
	words := strings.FieldsFunc(webhooks, func(r rune) bool { return r == ',' || unicode.IsSpace(r) })
	return stripepay.New(stripepay.Config{
		SecretKey: key, PublishableKey: c.Stripe.Publishable, WebhookSecrets: words, Account: c.Stripe.Account,
	})
}

// A keyFile is a file with where its text belongs. One file may be named for
// several things.
type keyFile struct {
	name string
	into *[]byte
}

// readFiles reads what is named.
func readFiles(files []keyFile) (err error) {
	for _, f := range files {
		if f.name == "" {
			continue
		}
		if *f.into, err = os.ReadFile(f.name); err != nil {
			return err
		}
	}
	return nil
}

// openChannels opens the channels of this process, for those who ask them and for
// those who listen to them.
func (s *system) openChannels() error {
	all, err := s.cfg.Channels.open()
	if err != nil {
		return usage(err)
	}
	s.channels = map[string]commands.Channel{}
	s.listeners = map[string]writeapi.Listener{}
	for name, ch := range all {
		s.channels[name], s.listeners[name] = ch, ch
	}
	return nil
}

// alarm tells the operator of money that a person has to look at.
func (s *system) alarm(ctx context.Context, a commands.Alarm) {
	s.log.ErrorContext(ctx, "alarm", "kind", a.Kind, "stream", a.Stream, "detail", a.Detail)
	s.metrics.Alarm(a.Kind)
}
